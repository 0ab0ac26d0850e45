"""The schema of a replay: the service's tables once more, with positions, inbox and dead letters of their own.

All names in the library and in a service are unqualified, so a session whose `search_path` is this schema finds these
tables, and no others. What was begun is written down in the transaction that creates the schema, so a replay that was
killed anywhere goes on.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError

from ..calls.outbox import CallingOutbox
from ..errors import CommandFailed
from ..postgres import access as postgres_access
from ..postgres import engine as postgres_engine
from ..postgres.migrations import migrate, owner, runtime_role
from ..postgres.outbox import Outbox
from ..postgres.transaction import WorkerDatabase
from ..protocol.ports import Input, Position
from .maintenance import Context

NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}")
"""Of PostgreSQL's 63 characters some are left for the schema that keeps the replaced tables."""

RESERVED = re.compile(r"public|pg_.*|information_schema")

LOCK_CLASS = 0x45584F52
"""The first half of the advisory lock of the one replay into a schema ("EXOR")."""

CONNECTIONS = 3
"""One with the lock and the batches, one to cancel its statement, one for questions."""

_EXISTS = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :schema)")
_IS_REPLAY = text("""
    SELECT EXISTS (
        SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = :schema
            AND relname = :table
    )
""")
_LOCK = text("SELECT pg_try_advisory_lock(:class, hashtext(:schema))")
REPLAY = "exactly_once_replay"
_CREATE = (
    "CREATE SCHEMA {0}",
    f"CREATE TABLE {{0}}.{REPLAY} (service text NOT NULL, words text NOT NULL, "
    "began_at timestamptz NOT NULL DEFAULT clock_timestamp(), switched_at timestamptz)",
    f"CREATE TABLE {{0}}.{REPLAY}_input (topic text, partition int, topic_id text NOT NULL, epoch int NOT NULL, "
    "first_offset bigint NOT NULL, until_offset bigint NOT NULL, PRIMARY KEY (topic, partition))",
)
_READ = ("GRANT USAGE ON SCHEMA {0} TO {1}", "GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {1}")
_BEGIN = f"INSERT INTO {{}}.{REPLAY} (service, words) VALUES (:service, :words)"  # noqa: S608 - constants
_INPUT = f"INSERT INTO {{}}.{REPLAY}_input VALUES (:topic, :partition, :topic_id, :epoch, :first, :until)"  # noqa: S608
# The rest runs on the schema's own sessions.
_WINDOWS = text(f"""
    SELECT replayed.topic, replayed.partition, coalesce(next_offset, first_offset), until_offset, replayed.epoch,
           topic_id
    FROM {REPLAY}_input AS replayed LEFT JOIN exactly_once_position AS position USING (topic, partition)
    ORDER BY topic, partition
""")  # noqa: S608 - constants
_START = text(f"""
    INSERT INTO exactly_once_position (topic, partition, next_offset, epoch)
    SELECT topic, partition, first_offset, epoch FROM {REPLAY}_input ON CONFLICT DO NOTHING
""")  # noqa: S608 - constants
_EXTEND = text(f"""
    UPDATE {REPLAY}_input SET until_offset = greatest(until_offset, :until)
    WHERE topic = :topic AND partition = :partition
""")  # noqa: S608 - constants


class Window(NamedTuple):
    """What is replayed of an input."""

    first: int
    """The next offset to replay."""
    until: int
    epoch: int
    topic_id: str


class Begun(NamedTuple):
    """A replay that was begun."""

    service: str
    words: str
    """The options with which it was begun."""
    switched: bool
    """Whether its tables have become the live ones."""


def refuse_name(schema: str) -> None:
    """Refuse a name that is not plain, or that PostgreSQL or the service uses. Raises `CommandFailed`."""
    if not NAME.fullmatch(schema) or RESERVED.fullmatch(schema):
        raise CommandFailed(
            f"--into {schema}: name a schema of its own: at most 51 small letters, digits and _, not public nor pg_*"
        )


def quoted(schema: str) -> str:
    """Return a schema's name as SQL."""
    return PGDialect().identifier_preparer.quote_identifier(schema)  # type: ignore[no-untyped-call]


def begun(connection: Connection, schema: str) -> Begun | None:
    """Return what was begun in `schema`; None if there is no such schema. Raises `CommandFailed` if it is not a
    replay's.
    """
    with connection.begin():
        if not connection.execute(_EXISTS, {"schema": schema}).scalar_one():
            return None
        if not connection.execute(_IS_REPLAY, {"schema": schema, "table": REPLAY}).scalar_one():
            raise CommandFailed(f"the schema {schema} exists, and is no replay's: name another one")
        columns = "service, words, switched_at IS NOT NULL"
        row = connection.execute(text(f"SELECT {columns} FROM {quoted(schema)}.{REPLAY}")).one()  # noqa: S608
    return Begun(*row)


def create(context: Context, schema: str, words: str, windows: Mapping[Input, Window]) -> None:
    """Create the schema, and write down what is to be replayed. Raises `CommandFailed` without the right to."""
    engine, setting = owner(context.settings, context.service.name)
    name = quoted(schema)
    try:
        with postgres_access.connect(engine, setting) as connection, connection.begin():
            for statement in _CREATE:
                connection.execute(text(statement.format(name)))
            connection.execute(text(_BEGIN.format(name)), {"service": context.service.name, "words": words})
            for source, window in windows.items():
                facts = {"topic": source.topic, "partition": source.partition, **window._asdict()}
                connection.execute(text(_INPUT.format(name)), facts)
            # The migrations grant the rest; but the next run has to see what was begun, if this process ends before.
            if (role := runtime_role(context.settings, context.service.name)) is not None:
                for statement in _READ:
                    connection.execute(text(statement.format(name, quoted(role))))
    except DBAPIError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        raise CommandFailed(
            f"{setting}: the role {engine.url.username} may not create a schema: GRANT CREATE ON DATABASE "
            f"{engine.url.database} TO it, or set MIGRATION_DATABASE_URL to a role that may"
        ) from error


def bring_up_to_date(context: Context, schema: str) -> None:
    """Make the tables of the service in the schema, or bring them up to date."""
    migrate(context.settings, context.service.name, schema=schema)


class Discarding(CallingOutbox):
    """Takes what handlers publish, schedule and call, checks it as ever, counts it, and writes nothing."""

    def __init__(self, context: Context, outbox: Outbox) -> None:
        calls = outbox.calls if isinstance(outbox, CallingOutbox) else ()
        super().__init__(context.service, context.settings.event_bytes_max, calls)
        self.batch = 0
        """How many there were in the last batch."""

    def settle(self, session: Any) -> None:
        session.flush()
        for change in self._taken(session):
            change.found = False
            self.batch += change.pending is not None

    def insertion(self, session: Any) -> list[Any]:
        self.settle(session)
        pending, session.collected = session.collected, []
        self.refuse_large(pending)
        # Announcements of dead letters come from the library.
        self.batch += sum(type(one.event) in self._publishes for one in pending)
        return []


class ReplayDatabase(WorkerDatabase):
    """The database session of a replay. It holds the schema's lock, and no slot: workers do not notice it."""

    def __init__(self, context: Context, schema: str) -> None:
        settings = context.settings
        self._schema = schema
        self.engine = _engine(context, schema)
        self.outbox = Discarding(context, context.outbox)
        super().__init__(
            self.engine,
            self.engine,
            context.service,
            self.outbox,
            slots_max=0,
            claim_bytes=0,
            handler_seconds_max=settings.handler_seconds,
            retry_seconds_max=settings.retry_seconds_max,
        )

    def take_slot(self) -> bool:
        """Take the schema's lock; False if another replay has it. Raises `DatabaseUnavailable`."""
        with self._transient(connect=True) as connection:
            return bool(connection.execute(_LOCK, {"class": LOCK_CLASS, "schema": self._schema}).scalar_one())

    def windows(self) -> dict[Input, Window]:
        """Return what is left to replay of every input, as it is stored."""
        with self._transient() as connection:
            connection.execute(_START)
            return {Input(topic, n): Window(*rest) for topic, n, *rest in connection.execute(_WINDOWS)}

    def extend(self, ends: Mapping[Input, int]) -> None:
        """Replay up to `ends`, where they are higher than before."""
        with self._transient() as connection:
            for source, until in ends.items():
                facts = {"topic": source.topic, "partition": source.partition, "until": until}
                connection.execute(_EXTEND, facts)


@contextmanager
def database(context: Context, schema: str) -> Iterator[ReplayDatabase]:
    """Open the schema for the one replay into it. Raises `CommandFailed` if another one is running."""
    made = ReplayDatabase(context, schema)
    try:
        if not made.take_slot():
            raise CommandFailed(f"another replay into {schema} is running: wait for it, or end it")
        yield made
    finally:
        made.close()
        made.engine.dispose()


def _engine(context: Context, schema: str) -> Engine:
    """Make an engine whose sessions see only the schema's tables."""
    engine = postgres_engine.connect(context.settings, context.service.name, CONNECTIONS)

    def narrow(raw: Any, _record: object) -> None:
        raw.execute(f"SET search_path TO {quoted(schema)}")
        raw.commit()

    event.listen(engine, "connect", narrow)
    return engine


def live(connection: Connection) -> dict[Input, Position]:
    """Return the positions of the workers, on a connection to their tables."""
    with connection.begin():
        rows = connection.execute(text("SELECT topic, partition, next_offset, epoch FROM exactly_once_position"))
        return {Input(topic, partition): Position(*rest) for topic, partition, *rest in rows}
