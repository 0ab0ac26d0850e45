"""The whole system in containers, as docker-compose.yml has it, with the interface of `dev.system.System`.

    with ComposeSystem("exactly-once-test") as system:
        httpx.get(f"{system.url('order')}/orders", headers=system.headers)
        system.supervisor.kill(system.workers("order")[0])
        assert system.balance().sheet().balanced

Each has a project of its own, with its own volumes, passwords and ports, so that it meets neither the system of
`make up` nor another one; both are gone when the block ends.
"""

import hashlib
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dev.balance import Balance
from dev.docker import Containers, Docker, Server
from dev.servers import Echo, echo, makes_calls, service_names
from dev.servers.places import HOST, free_port

# The image is built, a dozen containers and the servers start: about a minute on two cores, more where packages have to
# come over a slow line.
UP_SECONDS = 900.0

WORKERS = 2
"""Of each service, and its callers, by compose/base.yml and compose/payment.yml."""

SECRETS = ("POSTGRES_PASSWORD", "DATABASE_PASSWORD", "MIGRATION_PASSWORD", "API_TOKEN")
"""The token that `make up` writes into .env beside its hash."""


@dataclass(frozen=True)
class Pair:
    """Both servers; `kafka` is one of the brokers."""

    kafka: Server
    postgres: Server


class ComposeSystem:
    """Every service of this repository in containers: one API and two workers each, callers, the bank and a console."""

    def __init__(
        self,
        project: str,
        *,
        cluster: bool = False,
        bank: Sequence[str] = (),
        logs: Path | None = None,
        report: Echo = echo,
    ) -> None:
        """`bank` are options of `dev.bank`; `logs` is a folder for the output of all containers, written when the block
        ends.
        """
        self.services = tuple(service_names())
        self._logs = logs
        self._report = report
        variables = [
            "KAFKA_PORT",
            "KAFKA_PORT_2",
            "KAFKA_PORT_3",
            "POSTGRES_PORT",
            "PAYMENT_BANK_PORT",
            "CONSOLE_PORT",
            *map(_port, self.services),
        ]
        self._ports = {variable: free_port() for variable in variables}
        self._secrets = {name: secrets.token_hex(32) for name in SECRETS}
        self._secrets["API_TOKEN_SHA256"] = hashlib.sha256(self._secrets["API_TOKEN"].encode()).hexdigest()
        environment = {variable: str(port) for variable, port in self._ports.items()} | self._secrets
        environment["PAYMENT_BANK_OPTIONS"] = " ".join(bank)
        self.docker = Docker(project, environment, ["cluster" if cluster else "single"])
        self.servers = Pair(Server(self.docker, "kafka-1" if cluster else "kafka"), Server(self.docker, "postgres"))
        self.supervisor = Containers(
            self.docker,
            tuple(
                name
                for service in self.services
                for name in (self.api(service), *self.workers(service), *self.callers(service))
            ),
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._down()  # what a run that was killed has left
            stack.callback(self._down)
            if self._logs is not None:
                stack.callback(self._keep_logs, self._logs)
            self._report("Building the image, and starting all containers ...")
            self.docker.compose("up", "--build", "--wait", "--quiet-pull", seconds=UP_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def api(self, service: str) -> str:
        """Name the container of the API of `service`."""
        return f"{service} api"

    def workers(self, service: str) -> tuple[str, ...]:
        """Name the containers of the workers of `service`."""
        return tuple(f"{service} worker {number}" for number in range(1, WORKERS + 1))

    def callers(self, service: str) -> tuple[str, ...]:
        """Name the containers of the callers of `service`."""
        if not makes_calls(service):
            return ()
        return tuple(f"{service} caller {number}" for number in range(1, WORKERS + 1))

    @property
    def bank(self) -> str:
        """Return the base URL of the bank."""
        return f"http://{HOST}:{self._ports['PAYMENT_BANK_PORT']}"

    @property
    def console(self) -> str:
        """Return the address of the console."""
        return f"http://{HOST}:{self._ports['CONSOLE_PORT']}/"

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self._ports['KAFKA_PORT']}"

    def dsn(self, service: str) -> str:
        """Return the libpq URL of the database of `service`, for its owner."""
        password = self._secrets["MIGRATION_PASSWORD"]
        return f"postgresql://{service}_owner:{password}@{HOST}:{self._ports['POSTGRES_PORT']}/{service}"

    def url(self, service: str) -> str:
        """Return the base URL of the API of `service`."""
        return f"http://{HOST}:{self._ports[_port(service)]}"

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that authorize a request."""
        return {"Authorization": f"Bearer {self._secrets['API_TOKEN']}"}

    def balance(self) -> Balance:
        """Return the `Balance` of this system."""
        return Balance(self.bootstrap, {service: self.dsn(service) for service in self.services}, bank=self.bank)

    def is_ready(self, name: str) -> bool:
        """Return whether a container reports that it is ready."""
        return self.docker.ready(name)

    def _down(self) -> None:
        with _undisturbed():
            self.docker.compose("--profile", "*", "down", "--volumes", "--remove-orphans")

    def _keep_logs(self, logs: Path) -> None:
        with _undisturbed():
            (logs / "compose.log").write_text(self.docker.compose("logs", "--no-color", "--timestamps"))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Do not let an impatient Ctrl+C leave containers behind: Docker would restart them for ever."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _port(service: str) -> str:
    """Name the variable with the port of a service's API."""
    return f"{service.upper()}_PORT"
