"""The processes of a session: their names, ports and environments."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from dev.develop.debugger import stop
from dev.program import Program
from dev.servers import ServerError, makes_calls
from dev.servers.background import CONSOLE, CONSOLE_PORT
from dev.servers.places import HOST, free_port, is_free
from dev.service.entries import FIRST_PORT, compose_port

ROOT = Path(__file__).parents[2]
BANK = "bank"
BANK_PORT = 90
"""Above the first port, where payment expects it without any setting."""
CONSOLE_ABOVE = CONSOLE_PORT - FIRST_PORT
"""Where the console is, above the first port."""
PORT_MAX = 65_535
OTHER_PORTS = 1_000
"""How far above ports that are taken, or below them, others are suggested."""
PORT_VARIABLES = {"api": "HTTP_PORT", CONSOLE: "CONSOLE_PORT"}
ANSWER_SECONDS = 2.0
# An import that fails does so at once, but nine interpreters that start on two cores take eight seconds.
QUICK_SECONDS = 30.0
HOPELESS = (1,)
"""Python's exit code after an exception: the same code fails alike again. A process of ours has others for what may
pass, such as a server that is away.
"""


@dataclass(frozen=True)
class Process:
    """One process of a service, the bank, or the console, which any service starts."""

    service: str
    kind: str
    """A command of the service: `api`, `worker`, `caller` or `console`. Or `bank`."""
    port: int

    @property
    def name(self) -> str:
        return CONSOLE if self.kind == CONSOLE else f"{self.service} {self.kind}"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def is_ready(self) -> bool:
        """Ask it."""
        try:
            answer = httpx.get(f"{self.url}/health/ready", timeout=ANSWER_SECONDS, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.is_success


def fleet(services: Sequence[str], first_port: int | None = None) -> list[Process]:
    """Return the processes, in the order in which they start. The APIs have the ports that docker compose gives them,
    counted from another first one if it is given. Raises `ServerError` for a port that is taken.
    """
    first = first_port or FIRST_PORT
    found = []
    if (ROOT / "dev" / "bank.py").exists():
        found.append(Process("payment", BANK, first + BANK_PORT))
    for service in services:
        port = first + compose_port(service) - FIRST_PORT
        while port in (process.port for process in found):  # of a service that docker compose does not know
            port += 1
        found.append(Process(service, "api", port))
        found.append(Process(service, "worker", 0))
        if makes_calls(service):
            found.append(Process(service, "caller", 0))
    console_port = first + CONSOLE_ABOVE
    there = console_port <= PORT_MAX and console_port not in (process.port for process in found)
    # Nobody has to know where it is: the address is printed. And `make servers` has one of its own at the usual port.
    found += [Process(services[0], CONSOLE, console_port if there and is_free(console_port) else 0)] if services else []
    other = first + (OTHER_PORTS if first + 2 * OTHER_PORTS <= PORT_MAX else -OTHER_PORTS)
    for process in found:
        if process.port > PORT_MAX:
            raise ServerError(
                f"PORT={first} leaves no port for the {process.kind} of {process.service}: it is too high"
            )
        if process.port and not is_free(process.port):
            raise ServerError(
                f"Port {process.port}, for the {process.kind} of {process.service}, is taken by another process. "
                f"End that (`make down`, if it is docker compose), or use other ports, such as: make dev PORT={other}"
            )
    taken = {process.port for process in found}
    for place, process in enumerate(found):
        if not process.port:
            port = next(port for port in iter(free_port, 0) if port not in taken)
            taken.add(port)
            found[place] = Process(process.service, process.kind, port)
    return found


def grouped(processes: Collection[Process]) -> dict[str, tuple[str, ...]]:
    """Return the names of each service's processes, and of the console."""
    found: dict[str, tuple[str, ...]] = {}
    for process in processes:
        group = CONSOLE if process.kind == CONSOLE else process.service
        found[group] = (*found.get(group, ()), process.name)
    return found


def program(
    process: Process, bootstrap: str, database_url: str, books: Path, *, bank: Process | None, debugged: bool
) -> Program:
    """Return what to run. A process inherits our environment, and reads `.env` and `.env.local`, as by hand."""
    if process.kind == BANK:
        command = [sys.executable, "-m", "dev.bank", "--port", str(process.port), "--books", str(books)]
    else:
        command = [sys.executable, "-m", f"services.{process.service}", process.kind]
    env: Mapping[str, str] = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "DATABASE_URL": database_url,
        PORT_VARIABLES.get(process.kind, "METRICS_PORT"): str(process.port),
        **({"PAYMENT_BANK_URL": bank.url} if bank else {}),
        **({"DEBUG_NO_TIMEOUTS": "true"} if debugged else {}),
    }
    if debugged:
        env = {"PYTHONBREAKPOINT": f"{stop.__module__}.{stop.__name__}", **env}  # unless there is another debugger
    return Program(
        process.name, command, env, ROOT, foreground=debugged, quick_seconds=QUICK_SECONDS, hopeless=HOPELESS
    )
