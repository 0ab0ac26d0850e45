"""The services that a console shows: those whose packages lie beside the one that starts it.

Each is imported with the settings of this process's environment. One that cannot be imported, or whose settings are
wrong, is shown as such.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from ..calls.declaration import Call
from ..configuration.program import packages_beside
from ..container import container_in
from ..errors import Misconfigured
from ..operations.maintenance import Context
from ..postgres import engine as postgres_engine
from ..service import Service
from ..settings import Settings

PLACE = "{service}"
"""What stands in a database URL for the name of each service."""

READING_CONNECTIONS = 3
"""At the same time, for each service: two that look for problems, one for a page."""
ACTING_CONNECTIONS = 2
"""At the same time, for each service."""

STATEMENT_MS = 3_000
"""Of a statement that reads. A page that takes longer is of no use, and must not keep a server busy."""


@dataclass(frozen=True)
class Known:
    """A service that can be shown."""

    service: Service
    settings: Settings
    calls: tuple[type[Call], ...]
    watching: Engine
    """For the look that comes twice a second, which keeps its connection. It only reads, as `reading` does."""
    reading: Context
    """For whatever else reads: read-only transactions, each statement within `STATEMENT_MS`."""
    acting: Context
    """For the operations that somebody confirms."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.service.name


@dataclass(frozen=True)
class Absent:
    """A service that is there and cannot be shown."""

    name: str
    why: str


def find(container: Any, wanted: Sequence[str] | None = None) -> list[Known | Absent]:
    """Return the service of `container`, and those beside it, or only the `wanted` ones, in the order of their names.

    Raises `Misconfigured` if one that is wanted is not there, or would be looked for in the database of another.
    """
    own = known(container)
    apart = all(
        PLACE in url.get_secret_value()
        for url in (own.settings.database_url, own.settings.console_database_url or own.settings.database_url)
    )
    packages = {package.rpartition(".")[2]: package for package in packages_beside()} if apart else {}
    others = [name for name in packages if name != own.name]
    if wanted and (missing := sorted(set(wanted) - {own.name, *others})):
        if not apart:
            raise Misconfigured(
                f"--service {missing[0]}: DATABASE_URL leads to the database of {own.name}; with {PLACE} in place of "
                "its name, one console can show several"
            )
        raise Misconfigured(f"--service {missing[0]}: there is no such service; there are {', '.join(others)}")
    found = [own, *(_beside(name, packages[name]) for name in others)]
    return sorted((one for one in found if not wanted or one.name in wanted), key=lambda one: one.name)


def _beside(name: str, package: str) -> Known | Absent:
    """Import the container of a service. Whatever goes wrong there concerns the others not at all."""
    try:
        return known(container_in(package))
    except Exception as error:  # noqa: BLE001 - somebody else's modules
        return Absent(name, f"{package} cannot be loaded: {type(error).__name__}: {error}")


def known(container: Any) -> Known:
    """Return the service that a container puts together. Raises `Misconfigured`."""
    settings: Settings = container.settings()
    service: Service = container.service()
    url = settings.console_database_url or settings.database_url
    reads = settings.model_copy(update={"database_url": url})
    acting = postgres_engine.connect(settings, service.name, ACTING_CONNECTIONS)
    event.listen(acting, "checkin", _close)
    outbox = container.outbox()
    return Known(
        service,
        settings,
        tuple(container.calls()),
        watcher(reads, service.name),
        Context(settings, service, reader(reads, service.name), outbox),
        Context(settings, service, acting, outbox),
    )


def watcher(settings: Settings, service: str, connections: int = 1) -> Engine:
    """Make an engine that only reads, and gives up early."""
    engine = postgres_engine.connect(settings, service, connections)
    event.listen(engine, "begin", _limit)  # also behind a pooler, which would drop an option of the session
    return engine.execution_options(postgresql_readonly=True)


def reader(settings: Settings, service: str) -> Engine:
    """Make one that keeps no connection open."""
    engine = watcher(settings, service, READING_CONNECTIONS)
    event.listen(engine, "checkin", _close)
    return engine


def _close(_raw: object, record: ConnectionPoolEntry) -> None:
    """Close a connection that is given back. What uses it comes seldom; a pool that is disposed of would lose sight of
    those that are in use then.
    """
    record.invalidate()


def _limit(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
