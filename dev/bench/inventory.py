"""The inventory service on servers of its own: topics, databases with stock, and worker processes to be measured."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka.admin import AdminClient
from dependency_injector import providers

from dev import processes
from dev.bench.orders import ITEMS, STOCK, sku
from dev.servers import Servers, prepare
from dev.servers.places import HOST
from dev.servers.prepare import ROOT
from dev.servers.process import environment
from services.inventory.container import InventoryContainer
from services.inventory.handlers import service
from shared.settings import Settings

PARTITIONS = 4
STOP_SECONDS = 30.0
POLL_SECONDS = 0.01
# Nothing that is measured takes this long, unless it hangs.
SILENCE_SECONDS = 60.0
TEMPLATE = service.name
PROGRAM = f"services.{service.name}"


class BenchError(Exception):
    """Something that is measured did not do what it should."""


class Inventory:
    """Databases are copies of one with tables, lanes and stock; all use the same topics."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        prepare(servers.kafka.bootstrap, servers.postgres.dsn("{service}"), [service.name])
        items = [(sku(number), 100 + number, STOCK, STOCK) for number in range(ITEMS)]
        with psycopg.connect(servers.postgres.dsn(TEMPLATE)) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO stock (sku, price, currency, available, reserved, sold, received)"
                " VALUES (%s, %s, 'EUR', %s, 0, 0, %s)",
                items,
            )

    def database(self, name: str) -> Settings:
        """Make the database `name`, a copy with stock and no history; return the settings of a process that uses it."""
        self._servers.postgres.create_database(name, template=TEMPLATE)
        return Settings(
            _env_file=None,  # type: ignore[call-arg]
            kafka_bootstrap_servers=self._servers.kafka.bootstrap,
            database_url=self._servers.postgres.dsn(name),  # type: ignore[arg-type]
            partitions=PARTITIONS,
        )

    def forget_group(self) -> None:
        """Delete the group with what it has consumed and published, for a worker on another database."""

        def deleted() -> bool:
            (answer,) = admin.delete_consumer_groups([service.name]).values()
            return answer.exception(SILENCE_SECONDS) is None

        admin = AdminClient({"bootstrap.servers": self._servers.kafka.bootstrap, "log_level": 0})
        wait_until(deleted, "the last worker has left its group")

    @contextmanager
    def worker(self, settings: Settings, program: str = PROGRAM, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a worker process of a module; at the end of the block it is asked to end and must exit cleanly."""
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exactly-once-bench-")))
            log = directory / "worker.log"
            process = start_worker(settings, log, program, **more)
            try:
                yield process
            except BaseException as error:
                processes.end([process], STOP_SECONDS)
                error.add_note(f"The log of the worker ends:\n{log.read_text()[-3_000:]}")
                raise
            (code,) = processes.end([process], STOP_SECONDS)
            if code:
                raise BenchError(f"the worker ended with {code}:\n{log.read_text()[-3_000:]}")


def start_worker(settings: Settings, log: Path, program: str = PROGRAM, **more: str) -> "subprocess.Popen[bytes]":
    """Start a worker process as a supervisor does."""
    env = environment(
        PYTHONPATH=str(ROOT),
        KAFKA_BOOTSTRAP_SERVERS=settings.kafka_bootstrap_servers,
        DATABASE_URL=settings.database_url.get_secret_value(),
        PARTITIONS=str(settings.partitions),
        HTTP_HOST=HOST,
        **more,
    )
    words = (sys.executable, "-m", program, "worker")
    with log.open("ab") as output:
        return processes.start(words, env=env, cwd=log.parent, output=output)


def container(settings: Settings) -> Any:
    """Assemble the service in this process."""
    made = InventoryContainer()
    made.settings.override(providers.Object(settings))
    return made


def dsn(settings: Settings) -> str:
    return settings.database_url.get_secret_value()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SILENCE_SECONDS) -> None:
    """Wait until `condition` holds. Raises `BenchError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"after {seconds:.0f} s: {what} not reached")
        time.sleep(POLL_SECONDS)


def all_published(connection: "psycopg.Connection[Any]") -> bool:
    """Return whether something was published and nothing is unpublished. Cheap: it reads only the claims, which the
    last cycle empties when Kafka has all rows.
    """
    row = connection.execute("SELECT sum(position) > 0 AND bool_and(row_ids = '{}') FROM exactly_once_lane").fetchone()
    assert row is not None
    return bool(row[0])
