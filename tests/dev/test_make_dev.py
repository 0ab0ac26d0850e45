"""`make dev` with its servers and the demo's services, in a terminal: orders flow while a handler changes."""

import random
import re
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dev.develop.fleet import BANK_PORT
from dev.servers.places import HOST, PORTS, is_free
from dev.servers.process import environment
from shared.settings import Settings
from shared.testing import until
from tests.dev.terminal import CTRL_C, Terminal
from tests.dev.tree import Tree

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]

READY_SECONDS = 300.0
CONFIRMED_SECONDS = 120.0
HANDLER = '    """Reserve all lines or none, at today\'s prices."""\n'
# The watchdog's budget is one and a half of these; all other limits of a worker are shorter.
TRANSACTION_SECONDS = Settings.model_fields["transaction_timeout_ms"].default / 1_000


class Shop:
    """The three services, and what a customer asks of them."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.port = next(
            port
            for port in random.sample(PORTS[:-100], 100)
            if all(map(is_free, (port, port + 1, port + 2, port + BANK_PORT)))
        )
        self.handlers = tree.root / "services" / "inventory" / "handlers.py"

    def develop(self, *words: str) -> Terminal:
        """Run `make dev`."""
        command = ["make", "dev", f"PORT={self.port}", *words]
        terminal = Terminal(command, self.tree.root, environment(TERM="dumb"))
        terminal.until("Everything is ready", seconds=READY_SECONDS)
        return terminal

    def ask(self, method: str, service: int, path: str, **body: Any) -> Any:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        url = f"http://{HOST}:{self.port + service}{path}"
        answer = httpx.request(method, url, json=body or None, headers=headers, timeout=30, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()

    def open(self) -> None:
        """Fill the shelf and an account."""
        self.ask("PUT", 1, "/stock/tea", price=450, currency="EUR")
        self.ask("POST", 1, "/stock/tea/receipts", quantity=10)
        self.ask("PUT", 2, "/accounts/ada", currency="EUR")
        self.ask("POST", 2, "/accounts/ada/deposits", amount=10_000, currency="EUR")

    def order(self) -> str:
        return str(self.ask("POST", 0, "/orders", account="ada", lines=[{"sku": "tea", "quantity": 2}])["id"])

    def until_confirmed(self, order: str) -> None:
        until(
            lambda: self.ask("GET", 0, f"/orders/{order}")["state"] == "CONFIRMED",
            f"order {order} is confirmed",
            CONFIRMED_SECONDS,
        )

    def processes(self) -> dict[str, int]:
        """Return the id of each process of a service, by what it runs."""
        found = {}
        for process in psutil.process_iter(["cwd", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.info["cwd"] == str(self.tree.root) and "-m" in words and "-I" not in words:
                found[" ".join(words[words.index("-m") + 1 :][:2])] = process.pid
        return found

    def left(self, text: str) -> list[object]:
        """Return what is left of a session: processes, and ports that it has named."""
        ports = {int(port) for port in re.findall(rf"{re.escape(HOST)}:(\d+)", text)}
        assert len(ports) >= 10
        inside = [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(self.tree.root))]
        return [*inside, *(port for port in ports if not is_free(port))]


@pytest.fixture
def shop(tree: Tree) -> Shop:
    return Shop(tree)


def test_orders_flow_while_a_handler_changes(shop: Shop) -> None:
    written = shop.handlers.read_text()
    with shop.develop() as terminal:
        shop.open()
        shop.until_confirmed(shop.order())
        console = re.search(r"console: (http://\S+/)$", terminal.text, re.MULTILINE)
        assert console
        assert "What flows" in httpx.get(console[1], trust_env=False, timeout=30).text
        before = shop.processes()
        assert {"services.payment caller", "services.inventory api", "services.inventory worker"} <= before.keys()

        shop.handlers.write_text(written.replace(HANDLER, f'{HANDLER}    print("reserved by the new code")\n'))
        terminal.until("services/inventory/handlers.py changed: inventory api, inventory worker, console start again")
        shop.until_confirmed(shop.order())
        assert re.search(r"^inventory worker +\| reserved by the new code$", terminal.text, re.MULTILINE)
        after = shop.processes()
        assert after.keys() == before.keys()
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"services.inventory api", "services.inventory worker", "services.inventory console"}

        shop.handlers.write_text(f"{written}\ndef (\n")
        terminal.until("inventory worker has ended (exit 1): it starts again with the next change")
        assert len(re.findall(r"^inventory worker +\| SyntaxError", terminal.text, re.MULTILINE)) == 1
        order = shop.order()
        shop.handlers.write_text(written)
        shop.until_confirmed(order)

        text = terminal.text
        terminal.type(CTRL_C)
        assert terminal.exit_code() in {-2, 130}
        assert "Traceback" not in terminal.text[len(text) :]
        assert "Stopped; everything that was started is gone" in terminal.text
        assert shop.left(terminal.text) == []
        assert not (shop.tree.root / ".env.local").exists()


def test_a_breakpoint_in_a_handler_stands_for_as_long_as_it_takes(shop: Shop) -> None:
    """Longer than the session of the group, PostgreSQL's idle timeout, and the budgets of handler and watchdog."""
    with shop.develop("SERVICE=inventory", "DEBUG=1") as terminal:
        terminal.until("worker_started")
        shop.open()
        written = shop.handlers.read_text()
        shop.handlers.write_text(written.replace(HANDLER, f"{HANDLER}    breakpoint()\n"))
        terminal.until("worker_started", 2)
        order = shop.order()
        terminal.until("(Pdb) ")
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.5 * TRANSACTION_SECONDS + 2, "it stands for long")
        terminal.type("event.order_id\n")
        terminal.until(order)
        terminal.type("c\n")
        shop.until_confirmed(order)
        tea = shop.ask("GET", 1, "/stock/tea")
        assert (tea["available"], tea["sold"]) == (8, 2)
        assert terminal.text.count("has ended") == 1, "for the change"
        log = Path(shop.tree.root / ".servers" / "dev.log").read_text()
        assert "order worker" in log
        assert "order worker" not in terminal.text.partition("in the foreground")[2]
        assert "Nothing is wrong." in shop.tree.run(".venv/bin/python", "-m", "services.inventory", "audit").stdout

        shop.order()
        terminal.until("(Pdb) ", 3)
        terminal.type(CTRL_C)
        assert terminal.exit_code() in {-2, 130}
        assert shop.left(terminal.text) == []
