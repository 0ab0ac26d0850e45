"""The whole system as one object: databases, topics, tables, and every process of every service, kept alive.

    with running() as servers, System(servers) as system:
        httpx.get(f"{system.url('order')}/orders")
        system.supervisor.kill(system.workers("order")[0])
        assert system.balance().sheet().balanced

Topics and groups are named after the services alone, so one pair of servers carries one system at a time.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psycopg

from dev.balance import Balance
from dev.program import Program
from dev.servers import Echo, Servers, echo, makes_calls, service_names
from dev.servers.places import HOST, free_port
from dev.servers.prepare import run_command
from dev.servers.process import environment
from dev.supervisor import Supervisor

ROOT = Path(__file__).parents[1]
# Nine interpreters start at once on two cores: about eight seconds.
READY_SECONDS = 90.0
READY_POLL_SECONDS = 0.1
ANSWER_SECONDS = 2.0
BANK = "payment bank"
"""Its name for the supervisor."""
CONSOLE = "console"
"""The same."""


class NotReadyError(Exception):
    """A process did not become ready in time."""


@dataclass(frozen=True)
class Shape:
    """The size of the system, and extra settings of its processes."""

    partitions: int = 4
    workers: int = 2
    """Of each service."""
    callers: int = 2
    """Of each service that makes calls."""
    bank: Sequence[str] = ()
    """Options of the bank, such as how it fails (`python -m dev.bank --help`)."""
    settings: Mapping[str, str] | None = None
    """More environment variables for every process."""
    console: bool = False
    """Whether a console shows all of it."""
    worker: str = "services.{service}"
    """The module that is a worker; a test gives one that breaks something on purpose."""


class System:
    """Every service of this repository: one API and some workers each, callers where it makes calls, and the bank."""

    def __init__(
        self, servers: Servers, shape: Shape | None = None, *, logs: Path | None = None, report: Echo = echo
    ) -> None:
        self.servers = servers
        self.services = tuple(service_names())
        self._shape = shape or Shape()
        self._given_logs = logs
        self._report = report
        self._ports: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.logs = self._given_logs or Path(tempfile.mkdtemp(prefix="exactly-once-logs-"))
            if self._given_logs is None:
                stack.callback(shutil.rmtree, self.logs, ignore_errors=True)
            self._ports[BANK] = free_port()
            self._prepare()
            self.supervisor = stack.enter_context(Supervisor(self.logs))
            self._start_bank()
            for service in self.services:
                self._start(self.api(service), service, "api", "HTTP_PORT")
                for worker in self.workers(service):
                    self._start(worker, service, "worker", "METRICS_PORT")
                for caller in self.callers(service):
                    self._start(caller, service, "caller", "METRICS_PORT")
            if self._shape.console:
                self._start(CONSOLE, self.services[0], "console", "CONSOLE_PORT", DATABASE_URL=self.dsn("{service}"))
            self.wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def api(self, service: str) -> str:
        """Name the API process of `service`, for the supervisor."""
        return f"{service} api"

    def workers(self, service: str) -> tuple[str, ...]:
        """Name the worker processes of `service`, for the supervisor."""
        return tuple(f"{service} worker {number}" for number in range(1, self._shape.workers + 1))

    def callers(self, service: str) -> tuple[str, ...]:
        """Name the caller processes of `service`, for the supervisor: none if it makes no calls."""
        if not makes_calls(service):
            return ()
        return tuple(f"{service} caller {number}" for number in range(1, self._shape.callers + 1))

    @property
    def bank(self) -> str:
        """Return the base URL of the bank."""
        return f"http://{HOST}:{self._ports[BANK]}"

    @property
    def console(self) -> str:
        """Return the address of the console."""
        return f"http://{HOST}:{self._ports[CONSOLE]}/"

    @property
    def bootstrap(self) -> str:
        return self.servers.kafka.bootstrap

    def dsn(self, service: str) -> str:
        """Return the libpq URL of the database of `service`."""
        return self.servers.postgres.dsn(service)

    def url(self, service: str) -> str:
        """Return the base URL of the API of `service`."""
        return f"http://{HOST}:{self._ports[self.api(service)]}"

    def metrics(self, name: str) -> str:
        """Return the URL of the metrics of a process."""
        return f"http://{HOST}:{self._ports[name]}/metrics"

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that authorize a request: none."""
        return {}

    def balance(self) -> Balance:
        """Return the `Balance` of this system."""
        return Balance(self.bootstrap, {service: self.dsn(service) for service in self.services}, bank=self.bank)

    def wait_until_ready(self, names: Iterable[str] | None = None, seconds: float = READY_SECONDS) -> None:
        """Wait until the named processes, or all, report that they are ready.

        Raises `NotReadyError` or `GaveUp`, with the end of a log.
        """
        waiting = list(self._ports if names is None else names)
        deadline = time.monotonic() + seconds
        while waiting := [name for name in waiting if not self.is_ready(name)]:
            self.supervisor.check()
            if time.monotonic() > deadline:
                name = waiting[0]
                raise NotReadyError(
                    f"{', '.join(waiting)}: not ready within {seconds:.0f} s. "
                    f"The log of {name} ends:\n{self.supervisor.tail(name)}"
                )
            time.sleep(READY_POLL_SECONDS)

    def is_ready(self, name: str) -> bool:
        """Ask a process whether it is ready."""
        try:
            answer = httpx.get(
                f"http://{HOST}:{self._ports[name]}/health/ready", timeout=ANSWER_SECONDS, trust_env=False
            )
        except httpx.TransportError:
            return False
        return answer.is_success

    def _prepare(self) -> None:
        """Make databases, topics and tables, by the commands that an operator would use. What is there, stays."""
        for service in self.services:
            try:
                self.servers.postgres.create_database(service)
            except psycopg.errors.DuplicateDatabase:
                continue
        # Side by side: each is mostly the start of an interpreter.
        with ThreadPoolExecutor(2 * len(self.services)) as pool:
            commands = [(service, command) for service in self.services for command in ("topics --consumed", "migrate")]
            list(pool.map(lambda pair: self._run(*pair), commands))
        self._report(f"Databases, topics and tables are in place for {', '.join(self.services)}")

    def _run(self, service: str, command: str) -> None:
        run_command(service, command, self._environment(service), self.logs)

    def _start_bank(self) -> None:
        place = ("--port", str(self._ports[BANK]), "--books", str(self.logs / "bank.sqlite"))
        words = (sys.executable, "-m", "dev.bank", *place, *self._shape.bank)
        self.supervisor.start(Program(BANK, words, environment(PYTHONPATH=str(ROOT)), self.logs))

    def _start(self, name: str, service: str, command: str, port_variable: str, **more: str) -> None:
        # Chosen once: a process that is started again must be found where it was.
        port = self._ports[name] = free_port()
        env = self._environment(service) | {port_variable: str(port)} | more
        module = self._shape.worker if command == "worker" else "services.{service}"
        words = (sys.executable, "-m", *module.format(service=service).split(), command)
        self.supervisor.start(Program(name, words, env, self.logs))

    def _environment(self, service: str) -> dict[str, str]:
        """Return all variables of a process. It inherits none of ours, and no `.env` lies where it starts."""
        return environment(
            PYTHONPATH=str(ROOT),
            PYTHONUNBUFFERED="1",
            KAFKA_BOOTSTRAP_SERVERS=self.bootstrap,
            DATABASE_URL=self.dsn(service),
            PARTITIONS=str(self._shape.partitions),
            HTTP_HOST=HOST,
            API_AUTH="off",
            HTTP_REQUESTS_PER_SECOND_MAX="0",  # one client is all customers
            PAYMENT_BANK_URL=self.bank,
            **(self._shape.settings or {}),
        )
