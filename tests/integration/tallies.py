"""The stage of an operator's test: the small service with its own database and topics on the shared servers. It can
work in this process, die anywhere, and be copied and restored.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from unittest import mock

import psycopg
from confluent_kafka.admin import AdminClient
from sqlalchemy import NullPool, create_engine

from dev import processes
from dev.servers import Servers
from shared import command
from shared.kafka import topics
from shared.postgres import outbox, roles
from shared.session import Session
from shared.settings import Settings
from shared.telemetry import metrics
from shared.testing import SECONDS_MAX
from tests.faults import trail
from tests.integration import tally_worker
from tests.integration.tally_topics import Topics

ROOT = Path(__file__).parents[2]
RUNTIME = "tally_runtime"
"""Workers and operators have the rights that a service has."""


class Tallies(Topics):
    """One service with its own database and topics on the shared servers."""

    def __init__(self, servers: Servers, *, partitions: int = 1, **settings: object) -> None:
        self.servers = servers
        self.name = f"tally-{uuid.uuid4().hex[:12]}"
        self.kit = trail.make(self.name)
        self.service, self.asked, self.told = self.kit.service, self.kit.asked, self.kit.told
        self.settings = Settings.model_validate(
            {
                "kafka_bootstrap_servers": servers.kafka.bootstrap,
                "database_url": servers.postgres.dsn(self.name, RUNTIME),
                "migration_database_url": servers.postgres.dsn(self.name),
                "partitions": partitions,
                "session_timeout_ms": 2_000,
                "retry_seconds_max": 0.1,
                **settings,
            }
        )
        self._engine = create_engine(self.settings.dsn(self.name), poolclass=NullPool)
        self._make_database()
        topics.create_topics(self.settings, self.service)
        self._copies: list[str] = []
        self._quiet = mock.patch.object(metrics, "configure")
        # Kept: a client that is gone never answers.
        self.admin = AdminClient({"bootstrap.servers": servers.kafka.bootstrap, "log_level": 0})
        self.outbox = outbox.Outbox(self.service, self.settings.event_bytes_max)

    def __enter__(self) -> Self:
        # A logger that a command configures would keep the standard error of one test for all that follow.
        self._quiet.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet.stop()
        for name in (self.name, *self._copies):
            self.servers.postgres.drop_database(name)
        for removed in self.admin.delete_topics(topics.needed(self.service)).values():
            removed.exception(SECONDS_MAX)

    # ---- the database

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Run a statement; return the first column of its rows."""
        with psycopg.connect(self.servers.postgres.dsn(self.name), autocommit=True) as connection:
            found = connection.execute(cast("Any", statement), parameters)
            return [row[0] for row in found.fetchall()] if found.description else []

    def request(self, *numbers: int, key: str = "k", padding: str = "") -> None:
        """Make steps, as HTTP requests do."""
        for number in numbers:
            with Session(self._engine) as session, session.begin():
                self.outbox.add(session, trail.step(session, self.kit, key, number, requested=True, padding=padding))
                self.outbox.write(session)

    @contextmanager
    def held(self, statement: str) -> Iterator[None]:
        """Hold the locks of a statement while the block runs."""
        with psycopg.connect(self.servers.postgres.dsn(self.name)) as connection:
            connection.execute(cast("Any", statement))
            yield

    def copy(self) -> Callable[[], None]:
        """Copy the database; return a function that restores the copy, as a backup."""
        name = f"{self.name}-{len(self._copies)}"
        self.servers.postgres.create_database(name, template=self.name)
        self._copies.append(name)

        def restore() -> None:
            self.servers.postgres.drop_database(self.name)
            self.servers.postgres.create_database(self.name, template=name)

        return restore

    def effects(self) -> list[int]:
        """Return the numbers that took effect: those handled, in their order, then those requested."""
        handled = self.sql("SELECT number FROM effect ORDER BY id")
        return handled + self.sql("SELECT unnest(requested) FROM trail ORDER BY key")

    def lane(self, lane: int = 0) -> tuple[int, str | None, int]:
        """Return position, claim id and number of rows of a claim."""
        with psycopg.connect(self.servers.postgres.dsn(self.name)) as connection:
            row = connection.execute(
                "SELECT position, claim_id::text, cardinality(row_ids) FROM exactly_once_lane WHERE lane = %s", (lane,)
            ).fetchone()
        assert row is not None
        return row

    def waiting(self) -> list[int]:
        """Return the numbers of the rows in the outbox, in order."""
        rows = self.sql("SELECT data FROM exactly_once_outbox ORDER BY id")
        return [json.loads(data)["number"] for data in rows]

    def handled(self, partition: int = 0) -> tuple[int, int]:
        """Return the next offset and epoch of an input."""
        with psycopg.connect(self.servers.postgres.dsn(self.name)) as connection:
            row = connection.execute(
                "SELECT next_offset, epoch FROM exactly_once_position WHERE partition = %s", (partition,)
            ).fetchone()
        assert row is not None
        return row

    def decisions(self) -> list[dict[str, Any]]:
        """Return the decisions on record, in their order."""
        return self.sql("SELECT to_jsonb(decision) FROM exactly_once_decision AS decision ORDER BY id")

    def make_database_anew(self) -> None:
        """Replace the database by an empty one with tables."""
        self.servers.postgres.drop_database(self.name)
        self._make_database()

    def _make_database(self) -> None:
        self.servers.postgres.create_database(self.name)
        self.servers.postgres.create_role(RUNTIME)
        owner = create_engine(self.settings.migration_dsn(self.name), poolclass=NullPool)
        with owner.begin() as connection:
            trail.create_tables(connection)
            trail.seed_lanes(connection, self.settings.partitions)
            roles.grant(connection, RUNTIME)

    # ---- a worker, and an operator

    def work(self, *, die: str | None = None, leave: bool = True, **limits: int) -> None:
        """Work until nothing is left to do, or die with a claim that is `unpublished` or was just `published`.

        Without `leave` it ends like a killed one: Kafka learns of it by the session timeout.
        """
        tally_worker.work(self.kit, self.settings, die=die, leave=leave, **limits)

    def lose_two(self) -> None:
        """Handle 1 to 5, and restore the database as it was after 3."""
        self.ask(1, 2, 3)
        self.work()
        restore = self.copy()
        self.ask(4, 5)
        self.work()
        restore()

    def process(self, log: Path, **more: object) -> subprocess.Popen[bytes]:
        """Start a worker as a process, with `more` settings."""
        settings = self.settings.model_copy(update=more)
        with log.open("wb") as output:
            return processes.start(
                [sys.executable, "-m", "tests.integration.tally_process", self.name, settings.model_dump_json()],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": settings.database_url.get_secret_value()},
                output=output,
            )

    def run(self, line: str) -> int:
        """Run a command of the service, in this process; return its exit code."""
        return self.run_words(line.split())

    def run_words(self, words: list[str]) -> int:
        """Run a command given as words, which may hold anything."""
        built = trail.container(self.kit, self.settings)
        try:
            return command.run(built, words)
        finally:
            built.engine().dispose()
