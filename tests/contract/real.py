"""The real servers, and the ports as a worker has them."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self, cast

import msgspec
import psycopg
from confluent_kafka import IsolationLevel, Producer, TopicPartition
from sqlalchemy import NullPool, create_engine, text

from dev.servers import Servers
from shared.errors import KafkaUnavailable
from shared.kafka import topics
from shared.kafka.client import KafkaClient
from shared.kafka.consumer import committed_offsets
from shared.kafka.producer import IN_ORDER
from shared.postgres.handlers import Handlers
from shared.postgres.outbox import Outbox
from shared.postgres.transaction import WorkerDatabase
from shared.protocol.ports import Delivery, Input, Kafka, OutboxRow, Record
from shared.session import Session
from shared.settings import Settings
from shared.testing import SECONDS_MAX, outside, until
from tests.contract.world import Place, Slotted, World
from tests.faults import record_size, trail
from tests.faults.stage import RUNTIME, TEMPLATE, StageSettings, headers, make_template, partition, producer

STABLE_SECONDS = 1.0
"""The bound of a wait for offsets that a transaction holds, instead of 5 s."""

LARGE = 5_000
"""The bytes of a large row."""

DATABASE = f"contract_{os.getpid()}"
"""All tests of a process share it; each finds it empty."""

EMPTY = b"""
    DO $$ BEGIN
        EXECUTE (SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ') || ' RESTART IDENTITY'
                 FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema'));
        INSERT INTO exactly_once_lane (lane) VALUES (0), (1);
    END $$
"""


@contextmanager
def database(servers: Servers) -> Iterator[None]:
    """Make the database for the length of the block."""
    make_template(servers, 2)
    servers.postgres.create_database(DATABASE, template=f"{TEMPLATE}_2")
    try:
        with RealWorld(servers) as world:
            kafka = world.kafka()
            until(lambda: _is_there(kafka.renew), "the first transaction coordinator is there")
            world.leave(kafka)
        yield
    finally:
        servers.postgres.drop_database(DATABASE)


def _is_there(renew: Callable[[], None]) -> bool:
    with suppress(KafkaUnavailable):
        renew()
        return True
    return False


class RealWorld(World):
    """One service with topics and a group of its own, and an empty database."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self.name = f"contract-{uuid.uuid4().hex[:12]}"
        self._kit = trail.make(self.name)
        self._handlers = Handlers(self._kit.service)
        self._settings: Settings = StageSettings.model_validate(
            {
                "kafka_bootstrap_servers": servers.kafka.bootstrap,
                "database_url": servers.postgres.dsn(DATABASE, RUNTIME),
                "partitions": 2,
                # No test waits for the end of either. A busy machine needs them: a commit that takes a sixth of the
                # transaction timeout is under suspicion.
                "session_timeout_ms": 6_000,
                "transaction_timeout_ms": 60_000,
            }
        )
        topic = self._kit.asked.topic
        self.inputs = (Input(topic, 0), Input(topic, 1))
        names = [f"key-{n}" for n in range(100)]
        zero, one = (next(name for name in names if partition(name) == p) for p in (0, 1))
        self.keys = (zero, one)
        self._outbox = Outbox(self._kit.service, self._settings.event_bytes_max)
        self._admin = outside.admin(servers.kafka.bootstrap)
        self._topics = False
        self._clients: set[KafkaClient] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._books = psycopg.connect(self._servers.postgres.dsn(DATABASE), autocommit=True)
        self._open.callback(self._books.close)
        self._books.execute(EMPTY)
        self._engine = create_engine(self._settings.dsn(self.name), poolclass=NullPool)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for made in self._clients:
            made.close()
        self._open.close()
        if self._topics:
            self._admin.delete_topics(topics.needed(self._kit.service))  # nobody waits for it

    def _make_topics(self) -> None:
        if not self._topics:
            topics.create_topics(self._settings, self._kit.service)
            for topic in topics.needed(self._kit.service):
                outside.ends(self._servers.kafka.bootstrap, topic, 2, IsolationLevel.READ_COMMITTED)  # has its leaders
            self._topics = True

    # ---- the ports

    def kafka(self, slot: int = 0) -> Kafka:
        self._make_topics()
        made: KafkaClient = trail.container(self._kit, self._settings).kafka(slot=slot)
        consumer, lane_topic = made._member._consumer, self._kit.service.lane_topic
        made.committed = lambda inputs, lanes: committed_offsets(consumer, lane_topic, inputs, lanes, STABLE_SECONDS)
        self._clients.add(made)
        return cast("Kafka", made)

    def leave(self, kafka: Kafka) -> None:
        made = cast("KafkaClient", kafka)
        self._clients.discard(made)
        made.close()

    def database(self) -> Slotted:
        container = trail.container(self._kit, self._settings)
        database: WorkerDatabase = container.worker_database()
        self._open.callback(container.worker_engine().dispose)
        self._open.callback(database.close)
        until(database.take_slot, "a slot is free")
        return database

    def end_session(self, database: Slotted) -> None:
        backend = cast("WorkerDatabase", database)._backend
        assert backend is not None
        self._books.execute("SELECT pg_terminate_backend(%s, 5000)", (backend.pid,))

    def make_impatient(self, database: Slotted) -> None:
        connection = cast("WorkerDatabase", database)._connection
        assert connection is not None
        with connection.begin():
            connection.execute(text("SET lock_timeout = 200"))

    def while_it_waits(self, blocked: Callable[[], Any], release: Callable[[], object]) -> Any:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(blocked()))
        thread.start()
        until(lambda: self._books.execute(waits).fetchall() == [(1,)], "it waits")
        release()
        thread.join(SECONDS_MAX)
        return found[0]

    # ---- what happens outside

    def produce(self, source: Input, *numbers: int) -> None:
        self._make_topics()
        made = producer(self._servers.kafka.bootstrap)
        self._produce(made, source, numbers)
        assert made.flush(SECONDS_MAX) == 0

    def _produce(self, made: Producer, source: Input, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            key = self.keys[source.partition]
            value = msgspec.json.encode(self._kit.asked(trail=key, number=number))
            made.produce(source.topic, value, key, partition=source.partition, headers=headers(str(number)))

    def _transactional(self) -> Producer:
        self._make_topics()
        made = Producer(
            {
                "bootstrap.servers": self._servers.kafka.bootstrap,
                "transactional.id": f"{self.name}-other",
                **IN_ORDER,
                "log_level": 0,
            }
        )
        made.init_transactions(SECONDS_MAX)
        made.begin_transaction()
        return made

    @contextmanager
    def transaction(self, source: Input, *numbers: int) -> Iterator[Callable[[], None]]:
        made = self._transactional()
        self._produce(made, source, numbers)
        assert made.flush(SECONDS_MAX) == 0
        ends = [lambda: made.commit_transaction(SECONDS_MAX)]
        yield lambda: ends.insert(0, lambda: made.abort_transaction(SECONDS_MAX))
        ends[0]()

    @contextmanager
    def open_elsewhere(self) -> Iterator[None]:
        made = self._transactional()
        made.produce(self._kit.told.topic, b"of somebody else", partition=1)
        assert made.flush(SECONDS_MAX) == 0
        yield
        made.abort_transaction(SECONDS_MAX)

    def trim(self, source: Input, offset: int) -> None:
        for removed in self._admin.delete_records([TopicPartition(*source, offset)]).values():
            removed.result(SECONDS_MAX)

    def limit_size(self) -> None:
        self._make_topics()
        record_size.limit(self._servers.kafka.bootstrap, self._kit.told.topic, LARGE // 2)

    @contextmanager
    def request(self, lane: int) -> Iterator[str]:
        with Session(self._engine) as session, session.begin():
            event = trail.step(session, self._kit, self.keys[lane], 0, requested=True)
            event_id = self._outbox.add(session, event)
            self._outbox.write(session)
            yield event_id

    # ---- what handlers get and publish

    def delivery(self, number: int, lane: int = 0, *, rejected: bool = False) -> Delivery:
        key = self.keys[lane]
        value = msgspec.json.encode(self._kit.asked(trail=key, number=number, wish="reject" if rejected else ""))
        head = [(name, str(fact).encode()) for name, fact in headers(str(number))]
        record = Record(self.inputs[lane], number, key.encode(), value, head)
        opened = self._handlers.open(record)
        assert opened is not None
        return Delivery(record, opened.envelope, opened.event, 0)

    def row(self, name: str, lane: int = 0, *, large: bool = False) -> OutboxRow:
        data = b"x" * LARGE if large else b"{}"
        return OutboxRow(self._kit.told.topic, self.keys[lane], name, "Told", 1, "2026-01-01T00:00:00Z", data, None)

    # ---- what is seen from outside

    def published(self) -> list[str]:
        records = outside.read(self._servers.kafka.bootstrap, self._kit.told.topic, 2)
        return [record.event_id for record in sorted(records, key=lambda record: record[1:3])]

    def effects(self) -> list[int]:
        return [number for (number,) in self._books.execute("SELECT number FROM effect ORDER BY id")]

    def dead_letters(self) -> list[Place]:
        found = self._books.execute(
            'SELECT topic, partition, "offset" FROM exactly_once_dead_letter ORDER BY id'
        ).fetchall()
        return [Place(Input(topic, part), offset) for topic, part, offset in found]

    def outbox(self) -> list[str]:
        return [event_id for (event_id,) in self._books.execute("SELECT event_id FROM exactly_once_outbox ORDER BY id")]
