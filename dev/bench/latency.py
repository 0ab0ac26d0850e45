"""Time from the client's POST until any consumer can read OrderConfirmed, through the whole system over HTTP.

The rate is kept whatever the system does: an order's time begins when its POST is due, so a client that had to wait
behind a slow answer does not hide it.
"""

import http.client
import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import Message

from dev.bench.inventory import BenchError, wait_until
from dev.bench.listener import Listener, header
from dev.bench.orders import order_lines, sku
from dev.bench.report import Figure
from dev.servers import Echo, Servers
from dev.system import Shape, System

SECTION = "latency"
CLIENTS = 8
"""Connections of the client; each waits for its answer before it sends the next request."""
ITEMS = 100
ACCOUNTS = 50
WARM_SECONDS = 3.0


class Client(threading.local):
    """A connection to each service, kept open; every thread has its own."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def send(self, service: str, method: str, path: str, body: dict[str, Any]) -> Any:
        """Send a request and return its answer. Raises `BenchError` unless it succeeds."""
        if service not in self._connections:
            self._connections[service] = http.client.HTTPConnection(urlsplit(self._system.url(service)).netloc)
        connection = self._connections[service]
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise BenchError(f"{method} {path} of {service} was answered with {answer.status}: {content!r}")
        return json.loads(content)


def measure(servers: Servers, report: Echo, *, rates: list[int], seconds: float) -> Iterator[Figure]:
    """Measure each rate for `seconds`."""
    confirmed: dict[str, float] = {}

    def consume(message: Message, at: float) -> None:
        if header(message, "ce_type").startswith(b"OrderConfirmed."):
            confirmed[(message.key() or b"").decode()] = at

    report("latency: starting the whole system ...")
    with System(servers, Shape(workers=1), report=lambda _: None) as system:
        client = Client(system)
        _open(client)
        with Listener(system.bootstrap, "order.events", consume):
            _place(client, rates[0], WARM_SECONDS)
            for rate in rates:
                report(f"latency: {rate} orders per second for {seconds:.0f} s ...")
                placed = _place(client, rate, seconds)
                times = _times(placed, confirmed)
                for share in (50, 99):
                    value = times[min(len(times) - 1, len(times) * share // 100)]
                    yield Figure(SECTION, f"{rate} orders/s: POST to OrderConfirmed, p{share}", 1_000 * value, "ms")


def _times(placed: dict[str, float], confirmed: dict[str, float]) -> list[float]:
    """Wait until all orders are confirmed; return how long each took, the shortest first."""
    wait_until(lambda: confirmed.keys() >= placed.keys(), "all orders are confirmed")
    return sorted(confirmed[order] - due for order, due in placed.items())


def _open(client: Client) -> None:
    """Put in the stock to be ordered, and the money to pay for it."""
    for number in range(ITEMS):
        client.send("inventory", "PUT", f"/stock/{sku(number)}", {"price": 100 + number, "currency": "EUR"})
        client.send("inventory", "POST", f"/stock/{sku(number)}/receipts", {"quantity": 1_000_000})
    for number in range(ACCOUNTS):
        client.send("payment", "PUT", f"/accounts/account-{number}", {"currency": "EUR"})
        deposit = {"amount": 1_000_000_000_000, "currency": "EUR"}
        client.send("payment", "POST", f"/accounts/account-{number}/deposits", deposit)


def _place(client: Client, rate: int, seconds: float) -> dict[str, float]:
    """Place orders at `rate` for `seconds`; return when each was due."""
    begin = time.monotonic()
    numbers = itertools.count()
    placed: dict[str, float] = {}
    errors: list[BaseException] = []

    def work() -> None:
        chance = random.Random()
        try:
            # `next` of a counter is one step of the interpreter: no two threads get the same number.
            while (due := begin + next(numbers) / rate) < begin + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                lines = [{"sku": line.sku, "quantity": line.quantity} for line in order_lines(chance, ITEMS)]
                body = {"account": f"account-{chance.randrange(ACCOUNTS)}", "lines": lines}
                placed[client.send("order", "POST", "/orders", body)["id"]] = due
        except BaseException as error:  # noqa: BLE001 - raised below, by the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return placed
