"""The system as the demo needs it: `dev.system.System` has processes, `dev.compose.ComposeSystem` containers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from dev.balance import Balance


class Keeper(Protocol):
    """Keeps the processes alive, and strikes them when asked to; False: it was not running."""

    def kill(self, name: str) -> bool:
        """End a process at once; it is started again."""

    def freeze(self, name: str) -> bool:
        """Stop a process in the middle of whatever it does, until `thaw`."""

    def thaw(self, name: str) -> bool:
        """Let a frozen process go on."""

    def causes(self) -> Counter[str]:
        """Count the unordered exits, by process and cause."""

    def check(self) -> None:
        """Raise if a process will not be started again."""


class Server(Protocol):
    """Kafka or PostgreSQL."""

    def kill(self) -> None:
        """End it at once; its data stays."""

    def start(self) -> None:
        """Return when it is up again."""


class Pair(Protocol):
    """Both servers."""

    @property
    def kafka(self) -> Server:
        """A broker."""

    @property
    def postgres(self) -> Server:
        """The database server."""


class Stage(Protocol):
    """A running system that can be struck."""

    @property
    def services(self) -> Iterable[str]:
        """The names of all services."""

    @property
    def servers(self) -> Pair:
        """The servers under the services."""

    @property
    def supervisor(self) -> Keeper:
        """The supervisor of the processes."""

    @property
    def bootstrap(self) -> str:
        """The address of Kafka."""

    def api(self, service: str) -> str:
        """Name the API process of `service`."""

    def workers(self, service: str) -> tuple[str, ...]:
        """Name the worker processes of `service`."""

    def callers(self, service: str) -> tuple[str, ...]:
        """Name the caller processes of `service`; none if it makes no calls."""

    @property
    def bank(self) -> str:
        """The base URL of the bank."""

    def dsn(self, service: str) -> str:
        """Return the libpq URL of the database of `service`."""

    def url(self, service: str) -> str:
        """Return the base URL of the API of `service`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that authorize a request."""

    def balance(self) -> Balance:
        """Return the `Balance` of the system."""


def victims(stage: Stage) -> tuple[list[str], list[str]]:
    """Name the processes that are struck: workers with callers, which are killed and frozen alike, and APIs."""
    workers = [name for service in stage.services for name in (*stage.workers(service), *stage.callers(service))]
    return workers, [stage.api(service) for service in stage.services]


def failing(seed: int) -> tuple[str, ...]:
    """Return the options of a bank that fails at one request in ten, and does not want one customer in fifty."""
    return ("--seed", str(seed), "--share", "0.1", "--refused", "0.02")
