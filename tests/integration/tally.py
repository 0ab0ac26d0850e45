"""A small service for the operator's tests: it can be worked in this process, stopped anywhere, copied and restored.

It adds up numbers by key. Every effect leaves a row of its own, and every event that is said carries its number, so
that afterwards it can be told what was lost, and what happened twice, in the database and in the topic.
"""

import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, ClassVar, Self, cast
from unittest import mock

import msgspec
import psycopg
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions
from dependency_injector import containers, providers
from sqlalchemy import BigInteger, Identity, NullPool, Text, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dev.servers import Servers
from shared import command, outbox, start, tables, telemetry
from shared.container import ServiceContainer
from shared.cycle import Cycle, Limits
from shared.errors import KafkaInDoubt, RecoveryNeeded, Reject, Retry, Unavailable
from shared.events import Event
from shared.handling import Handlers, Read, Service, on
from shared.kafka import KafkaClient
from shared.session import Session
from shared.settings import Settings
from shared.transaction import WorkerDatabase

SECONDS_MAX = 60.0
"""For a machine that is busy with something else."""


class Base(DeclarativeBase):
    """The service's own tables."""


class Tally(Base):
    """The sum of a key."""

    __tablename__ = "tally"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    total: Mapped[int] = mapped_column(BigInteger)


class Effect(Base):
    """One row each time that a number took effect; nothing refuses a second one."""

    __tablename__ = "effect"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Switch(Base):
    """While `on`, numbers that wish so fail."""

    __tablename__ = "switch"

    name: Mapped[str] = mapped_column(Text, primary_key=True)


class Asked(Event, frozen=True, kw_only=True):
    """Heard: add `number` to the tally of `tally`."""

    tally: str
    number: int
    wish: str = ""

    @property
    def key(self) -> str:
        """The tally."""
        return self.tally


class Told(Event, frozen=True, kw_only=True):
    """Said: `number` was added."""

    tally: str
    number: int
    total: int
    padding: str = ""

    @property
    def key(self) -> str:
        """The tally."""
        return self.tally


def add(session: Session, told: type[Told], key: str, number: int, padding: str = "") -> Told:
    """Add a number, and give what is said about it."""
    tally = session.lock(Tally, key)
    if tally is None:
        tally = Tally(key=key, total=0)
        session.add(tally)
    tally.total += number
    session.add(Effect(number=number))
    return told(tally=key, number=number, total=tally.total, padding=padding)


def service(name: str) -> tuple[Service, type[Asked], type[Told]]:
    """Make the service `name`; its topics begin with its name."""

    class Asked_(Asked, frozen=True, kw_only=True):  # noqa: N801 - renamed below
        topic: ClassVar[str] = f"{name}.asked"

    class Told_(Told, frozen=True, kw_only=True):  # noqa: N801 - renamed below
        topic: ClassVar[str] = f"{name}.told"

    Asked_.__name__, Told_.__name__ = Asked.__name__, Told.__name__

    def handle(event: Asked, session: Session) -> Iterable[Event]:
        if event.wish and session.get(Switch, event.wish) is not None:
            raise {"reject": Reject, "retry": Retry, "defect": RuntimeError}[event.wish](f"{event.wish} {event.number}")
        return (add(session, Told_, event.tally, event.number),)

    made = Service(name=name, routes=(on(Asked_, handle, Read(Tally, lambda event, _: (event.tally,))),), says=(Told_,))
    return made, Asked_, Told_


def container(made: Service, settings: Settings) -> ServiceContainer:
    """Put the service together as a real one."""

    @containers.copy(ServiceContainer)
    class TallyContainer(ServiceContainer):
        service = providers.Object(made)

    built = cast("ServiceContainer", TallyContainer())
    built.settings.override(providers.Object(settings))
    # The history of migrations is not checked: this service has none.
    built.check.override(providers.Callable(lambda: start.check_topics(built.worker_engine(), settings, made)))
    return built


class Died(BaseException):
    """The worker died here; nothing catches it."""


class Tallies:
    """One service with its own database and topics on the shared servers."""

    def __init__(self, servers: Servers, *, partitions: int = 1, **settings: object) -> None:
        self.servers = servers
        self.name = f"tally-{uuid.uuid4().hex[:12]}"
        self.service, self.asked, self.told = service(self.name)
        self.settings = Settings.model_validate(
            {
                "kafka_bootstrap_servers": servers.kafka.bootstrap,
                "database_url": servers.postgres.dsn(self.name),
                "partitions": partitions,
                "session_timeout_ms": 2_000,
                "retry_seconds_max": 0.1,
                **settings,
            }
        )
        self._engine = create_engine(self.settings.dsn(self.name), poolclass=NullPool)
        self._make_database()
        start.create_topics(self.settings, self.service)
        self._copies: list[str] = []
        self._quiet = mock.patch.object(telemetry, "configure")
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
        for removed in self.admin.delete_topics(start.needed(self.service)).values():
            removed.exception(SECONDS_MAX)

    # ---- the database

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Run a statement; give the first column of what it gives."""
        with psycopg.connect(self.servers.postgres.dsn(self.name), autocommit=True) as connection:
            found = connection.execute(cast("Any", statement), parameters)
            return [row[0] for row in found.fetchall()] if found.description else []

    @contextmanager
    def held(self, statement: str) -> Iterator[None]:
        """Hold the locks of a statement while the block runs."""
        with psycopg.connect(self.servers.postgres.dsn(self.name)) as connection:
            connection.execute(cast("Any", statement))
            yield

    def copy(self) -> Callable[[], None]:
        """Copy the database; what it gives puts the copy in the database's place, as a restored backup is."""
        name = f"{self.name}-{len(self._copies)}"
        self.servers.postgres.create_database(name, template=self.name)
        self._copies.append(name)

        def restore() -> None:
            self.servers.postgres.drop_database(self.name)
            self.servers.postgres.create_database(self.name, template=name)

        return restore

    def effects(self) -> list[int]:
        """The numbers that took effect, in their order."""
        return self.sql("SELECT number FROM effect ORDER BY id")

    def lane(self, lane: int = 0) -> tuple[int, str | None, int]:
        """Position, claim id and number of rows of a claim."""
        with psycopg.connect(self.servers.postgres.dsn(self.name)) as connection:
            row = connection.execute(
                "SELECT position, claim_id::text, cardinality(row_ids) FROM lane WHERE lane = %s", (lane,)
            ).fetchone()
        assert row is not None
        return row

    def waiting(self) -> list[int]:
        """The numbers of the rows in the outbox, in their order."""
        rows = self.sql("SELECT data FROM outbox ORDER BY id")
        return [json.loads(data)["number"] for data in rows]

    def handled(self, partition: int = 0) -> tuple[int, int]:
        """H and epoch of an input."""
        with psycopg.connect(self.servers.postgres.dsn(self.name)) as connection:
            row = connection.execute(
                "SELECT next_offset, epoch FROM position WHERE partition = %s", (partition,)
            ).fetchone()
        assert row is not None
        return row

    def decisions(self) -> list[dict[str, Any]]:
        """The decisions that were remembered, in their order."""
        return self.sql("SELECT to_jsonb(decision) FROM decision ORDER BY id")

    def make_database_anew(self) -> None:
        """Put an empty database with tables in the place of the one that there is."""
        self.servers.postgres.drop_database(self.name)
        self._make_database()

    def _make_database(self) -> None:
        self.servers.postgres.create_database(self.name)
        with self._engine.begin() as connection:
            tables.metadata.create_all(connection)
            Base.metadata.create_all(connection)
            connection.execute(
                text("INSERT INTO lane SELECT generate_series(0, :last)"), {"last": self.settings.partitions - 1}
            )

    # ---- Kafka

    def move(self, bootstrap: str) -> None:
        """Use another Kafka from now on."""
        self.settings = self.settings.model_copy(update={"kafka_bootstrap_servers": bootstrap})
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions."""
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(SECONDS_MAX)

    @property
    def source(self) -> str:
        """The first input."""
        return f"{self.asked.topic}[0]"

    def committed(self) -> dict[str, tuple[int, str]]:
        """The committed offsets of the group, by `topic[partition]`, with their metadata."""
        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.name)])
        found = asked[self.name].result(SECONDS_MAX).topic_partitions
        return {f"{p.topic}[{p.partition}]": (p.offset, p.metadata or "") for p in found}

    def commit(self, topic: str, partition: int, offset: int, metadata: str = "") -> None:
        """Set a committed offset behind everybody's back."""
        p = TopicPartition(topic, partition, offset, metadata=metadata)
        asked = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(self.name, [p])])
        (answer,) = asked[self.name].result(SECONDS_MAX).topic_partitions
        assert answer.error is None, answer.error

    def forget_group(self) -> None:
        """Delete the group with all its committed offsets."""
        self.admin.delete_consumer_groups([self.name])[self.name].result(SECONDS_MAX)

    def recreate(self, topic: str, partitions: int | None = None) -> None:
        """Delete a topic and create it again."""
        self.admin.delete_topics([topic])[topic].result(SECONDS_MAX)
        settings = self.settings.model_copy(update={"partitions": partitions or self.settings.partitions})
        until(lambda: start.describe(self.admin, settings, [topic])[topic] is None, f"{topic} is gone")
        start.create_topics(settings, self.service)
        until(lambda: start.describe(self.admin, settings, [topic])[topic] is not None, f"{topic} is there")

    def ask(self, *numbers: int, key: str = "k", wish: str = "") -> None:
        """Produce numbers to be added."""
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "partitioner": "consistent"})
        for number in numbers:
            data = msgspec.json.encode(self.asked(tally=key, number=number, wish=wish))
            producer.produce(self.asked.topic, data, key.encode(), headers=headers(f"asked-{number}"))
        assert producer.flush(SECONDS_MAX) == 0

    def produce(self, value: bytes | None, key: bytes | None = b"k", event_headers: Sequence[Any] = ()) -> None:
        """Produce any record."""
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers})
        producer.produce(self.asked.topic, value, key, headers=list(event_headers))
        assert producer.flush(SECONDS_MAX) == 0

    def request(self, *numbers: int, key: str = "k", padding: str = "") -> None:
        """Add numbers as an HTTP request would."""
        for number in numbers:
            with Session(self._engine) as session, session.begin():
                self.outbox.add(session, add(session, self.told, key, number, padding))
                self.outbox.write(session)

    def heard(self, topic: str | None = None) -> list[tuple[int, str]]:
        """The numbers that a read_committed reader hears, with the ids of their events, partition by partition."""
        records = self.read(topic or self.told.topic)
        return [(json.loads(r.value())["number"], dict(r.headers())["ce_id"].decode()) for r in records]

    def numbers(self) -> Counter[int]:
        """How often each number is heard."""
        return Counter(number for number, _ in self.heard())

    def read(self, topic: str) -> list[Any]:
        """Read a topic to its end."""
        reader = Consumer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "group.id": f"{self.name}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            partitions = len(reader.list_topics(topic, SECONDS_MAX).topics[topic].partitions)
            reader.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
            found: list[Any] = []
            ended: set[int | None] = set()
            deadline = time.monotonic() + SECONDS_MAX
            while len(ended) < partitions:
                assert time.monotonic() < deadline
                message = reader.poll(0.1)
                if message is None:
                    continue
                problem = message.error()
                if problem is None:
                    found.append(message)
                else:
                    assert problem.code() == KafkaError._PARTITION_EOF, problem
                    ended.add(message.partition())
        finally:
            reader.close()
        return sorted(found, key=lambda m: (m.partition(), m.offset()))

    # ---- a worker

    def work(self, *, die: str | None = None, leave: bool = True, **limits: int) -> None:
        """Work until nothing is left to do; or die with a claim that is `unsaid`, or with one that was just `said`.

        Without `leave` its end is like that of a killed one: Kafka learns of it by the session timeout.
        """
        built = container(self.service, self.settings)
        with closing(built.worker_engine().dispose):
            start.check_topics(built.worker_engine(), self.settings, self.service)
            database = built.worker_database()
            with closing(database.close):
                until(database.take_slot, "a slot is free")
                kafka = built.kafka(slot=database.slot)
                with closing(kafka.close), closing(kafka.leave if leave else lambda: None), suppress(Died):
                    self._run(Mortal(kafka, die) if die else kafka, database, limits)

    def _run(self, kafka: Any, database: WorkerDatabase, limits: dict[str, int]) -> None:
        bounds = Limits(**{"records": 100, "rows": 100, **limits})
        cycle = Cycle(self.name, kafka, database, Handlers(self.service).open, bounds)
        deadline, in_doubt = time.monotonic() + SECONDS_MAX, True
        while in_doubt or not self._settled(cycle, database):
            assert time.monotonic() < deadline, "the worker does not come to rest"
            try:
                if in_doubt:
                    cycle.recover()
                in_doubt = False
                cycle.run(0.02, report=True)
            except RecoveryNeeded:
                in_doubt = True
            except Unavailable:
                time.sleep(0.1)

    def _settled(self, cycle: Cycle, database: WorkerDatabase) -> bool:
        """Whether everything is owned, handled and said; what is parked waits for ever."""
        if len(cycle.owned.lanes) < self.settings.partitions:
            return False
        ends = {
            (p.topic, p.partition): f.result(SECONDS_MAX).offset
            for p, f in self._ends([TopicPartition(*source) for source in cycle.owned.inputs]).items()
        }
        handled, parked = database.positions(cycle.owned.inputs), cycle.parked()
        lag = [s for s in cycle.owned.inputs if s not in parked and handled[s].next_offset != ends[s]]
        return not lag and not database.unsaid(cycle.owned.lanes)

    def _ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, Any]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return self.admin.list_offsets(dict.fromkeys(partitions, latest), isolation_level=IsolationLevel.READ_COMMITTED)

    # ---- an operator

    def run(self, line: str) -> int:
        """Run a command of the service, in this process; give its exit code."""
        built = container(self.service, self.settings)
        try:
            return command.run(built, line.split())
        finally:
            built.engine().dispose()


@contextmanager
def closing(end: Callable[[], object]) -> Iterator[None]:
    """Call `end` when the block ends."""
    try:
        yield
    finally:
        end()


class Mortal:
    """A Kafka port that dies before it says rows, or after."""

    def __init__(self, real: KafkaClient, die: str) -> None:
        self._real = real
        self._die = die
        self._saying = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)

        def call(*arguments: Any) -> Any:
            if name == "produce" and arguments[0]:
                self._saying = True
                if self._die == "unsaid":
                    raise Died
            try:
                return found(*arguments)
            except KafkaInDoubt as doubt:
                if not str(doubt).startswith("committed"):  # it was slow, and did happen
                    self._saying = False
                raise
            finally:
                if name == "commit" and self._saying:
                    raise Died

        return call


def headers(event_id: str, event_type: str = "Asked.v1") -> list[tuple[str, str | bytes | None]]:
    """The headers of an event from somewhere else."""
    facts = {"ce_specversion": "1.0", "ce_source": "test", "ce_id": event_id, "ce_type": event_type}
    return [(name, fact.encode()) for name, fact in facts.items()]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


if __name__ == "__main__":
    # A worker process; its database is in the environment, where a password belongs.
    told = json.loads(sys.argv[2])
    del told["database_url"]
    telemetry.configure(Settings(**told))
    container(service(sys.argv[1])[0], Settings(**told)).worker().run()
