"""The stage of a fault: one small service with its own database and topics on the shared servers, its workers as
processes that can be killed, and the books that are compared at the end.
"""

import os
import signal
import sys
import threading
import uuid
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psycopg
from confluent_kafka import (
    ConsumerGroupState,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from psycopg import sql
from sqlalchemy import NullPool, create_engine

from dev.servers import ClusterServers, Servers
from shared.container import ServiceContainer
from shared.kafka import topics
from shared.postgres import roles
from shared.postgres.engine import Requests
from shared.postgres.outbox import Outbox
from shared.session import Session
from shared.settings import Settings
from shared.testing import SECONDS_MAX, outside, until
from shared.testing.crashing_worker import Order, Plan
from shared.testing.outside import Published
from shared.testing.workers import TIMEOUTS, StageSettings, Worker, headers, processes, producer
from tests.faults import trail
from tests.faults.history import Consumed, History, Trail, anomalies

__all__ = [
    "PARTITIONS",
    "RUNTIME",
    "TIMEOUTS",
    "Stage",
    "StageSettings",
    "Worker",
    "admin",
    "headers",
    "partition",
    "producer",
]

MARKERS_SECONDS = 10.0

FLUSH_SECONDS = 180.0
"""A killed broker may take a minute to come back on a busy machine."""

PARTITIONS = 2

MOMENT = timedelta(milliseconds=20)
"""For which events are scheduled: some cycles."""

SOON = timedelta(seconds=10)
"""What is scheduled for a moment within that is waited for."""

TEMPLATE = f"trail_template_{os.getpid()}"
"""Each process has its own: PostgreSQL copies no database that another session has open."""

RUNTIME = "trail_runtime"
"""The workers' role: under every fault they have a service's rights and no more."""

AT_GATE = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND position('AS at_gate' in query) > 0
"""


def partition(key: str, partitions: int = PARTITIONS) -> int:
    """The partition of a key, by librdkafka's `consistent` partitioner."""
    return zlib.crc32(key.encode()) % partitions


class Stage:
    """One service, its books, and what was fed to it."""

    def __init__(
        self,
        servers: Servers | ClusterServers,
        logs: Path,
        *,
        partitions: int = PARTITIONS,
        names: str = "",
        build: Callable[[str, Settings], ServiceContainer] = trail.build,
        **settings: object,
    ) -> None:
        """`names` are addresses of the brokers that the workers alone can resolve."""
        self.servers = servers
        self._build = build
        self.name = f"trail-{uuid.uuid4().hex[:12]}"
        self.dsn = servers.postgres.dsn(self.name, RUNTIME)
        """The workers' URL; a superuser keeps the books."""
        self.kit = trail.make(self.name)
        self.settings: Settings = StageSettings.model_validate(
            {
                "kafka_bootstrap_servers": names or servers.kafka.bootstrap,
                "database_url": self.dsn,
                "partitions": partitions,
                **TIMEOUTS,
                **settings,
            }
        )
        self.workers: list[Worker] = []
        self.keyboard: Path | None = None
        """The input of debuggers in workers started from now on."""
        self.asked: dict[str, list[int]] = defaultdict(list)
        self._feeding = threading.Lock()
        """The load and a strike may ask at once; what is produced first must be noted first."""
        self.requested: dict[str, list[int]] = defaultdict(list)
        self.in_doubt: dict[str, list[int]] = defaultdict(list)
        self.rejected: list[tuple[str, int]] = []
        self._logs = logs
        self._partitions = partitions
        self._numbers = iter(range(1, 1_000_000))
        # Two keys for each partition.
        keys = [f"key-{n}" for n in range(100 * partitions)]
        self.keys = [key for p in range(partitions) for key in [k for k in keys if partition(k, partitions) == p][:2]]
        late = [f"late-{n}" for n in range(100 * partitions)]
        self.late_keys = [next(key for key in late if partition(key, partitions) == p) for p in range(partitions)]
        self._engine = create_engine(self.settings.dsn(self.name), poolclass=NullPool)
        self.outbox = Outbox(self.kit.service, self.settings.event_bytes_max)
        self.requests = Requests(self._engine, self.outbox)
        # Workers may be told names that only they can resolve; what else they are told is how one is let in.
        ours = self.settings.model_copy(update={"kafka_bootstrap_servers": servers.kafka.bootstrap} if names else {})
        make_template(servers, partitions)
        with ExitStack() as stack:  # what fails here must leave nothing open: it would be found in another test
            servers.postgres.create_database(self.name, template=f"{TEMPLATE}_{partitions}")
            stack.callback(servers.postgres.drop_database, self.name)
            self.connection = self._connect()
            stack.callback(self._disconnect)
            topics.create_topics(ours, self.kit.service)
            until(lambda: _led(admin(servers), topics.needed(self.kit.service)), "leaders answer for the topics")
            self._open = stack.pop_all()

    @property
    def bootstrap(self) -> str:
        return self.servers.kafka.bootstrap

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            for worker in self.workers:
                worker.stopped = True
                worker.send(signal.SIGKILL)
            for worker in self.workers:
                worker.ended()
            if error is not None:
                error.add_note(f"{self.name}:\n{self.logged()}")
            for worker in self.workers:
                worker.process.close()
        # Nothing waits for it: it only keeps a long run from collecting thousands of partitions.
        admin(self.servers).delete_topics(topics.needed(self.kit.service))

    def reconnect(self) -> None:
        """Reopen the connection for the books: the server was away."""
        self.connection.close()
        self.connection = self._connect()

    def _disconnect(self) -> None:
        self.connection.close()  # the one of the end, not that of the beginning

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self.servers.postgres.dsn(self.name), autocommit=True)

    # ---- workers

    def worker(self, plan: Plan | None = None, **settings: object) -> Worker:
        """Start a worker, with `settings` that override the stage's."""
        chosen = self.settings.model_copy(update=settings)
        log = self._logs / f"{self.name}-{len(self.workers)}.log"
        log.touch()
        armed, happened = processes.Event(), processes.Event()
        worker = Worker(Order(self.name, chosen, log, plan, armed, happened, self._build, self.keyboard))
        self.workers.append(worker)
        return worker

    def logged(self) -> str:
        """Return the workers' logs."""
        return "\n".join(
            f"--- {w.order.log.name}, {w.order.plan or 'no plan'}, {w.restarts} restarts, {w.state}\n{w.log()}"
            for w in self.workers
        )

    def show(self) -> None:
        """Print the workers' logs, which pytest shows if the test fails."""
        sys.stdout.write(self.logged())

    def until(self, condition: Callable[[], object], what: str, seconds: float = SECONDS_MAX) -> None:
        """Wait until `condition` holds, and restart workers that ask for it meanwhile."""

        def holds() -> object:
            for worker in self.workers:
                worker.supervise()
            return condition()

        until(holds, what, seconds)

    def stop(self) -> None:
        """End all workers that still run, as a deployment does."""
        ended = self.dismiss(*[worker for worker in self.workers if worker.running])
        assert ended == [0] * len(ended), ended

    def dismiss(self, *workers: Worker) -> list[int]:
        """End workers for good, and return their exit codes."""
        for worker in workers:
            worker.stopped = True
            worker.send(signal.SIGTERM)
        return [worker.ended() for worker in workers]

    def shares(self) -> dict[str, set[int]]:
        """Return the lanes of each member of the group, by its static name, once the group is at rest."""
        try:
            group = admin(self.servers).describe_consumer_groups([self.name])[self.name].result(SECONDS_MAX)
        except KafkaException:
            return {}  # the coordinator of the first group ever is just being made
        if group.state != ConsumerGroupState.STABLE:
            return {}
        return {
            str(member.group_instance_id): {
                p.partition for p in member.assignment.topic_partitions if p.topic == self.kit.service.lane_topic
            }
            for member in group.members
        }

    def members(self) -> int:
        """Return the number of members of the group."""
        found = admin(self.servers).describe_consumer_groups([self.name])[self.name].result(SECONDS_MAX)
        return len(found.members)

    def until_reported(self) -> None:
        """Wait until the inputs' next offsets are reported to Kafka."""
        topic = self.kit.asked.topic
        self.until(
            lambda: self.offsets(topic).items() >= self.ends(topic, IsolationLevel.READ_COMMITTED).items(),
            "Kafka knows the next offset",
        )

    def until_shared(self, members: int) -> None:
        """Wait until `members` members share the lanes, at least one each."""
        self.until(
            lambda: len(shares := list(self.shares().values())) == members and all(shares),
            f"{members} members with a share each",
        )

    # ---- what is fed

    def ask(self, keys: Iterable[str] | None = None, *, wish: str = "", poison: bool = False) -> None:
        """Produce one event for each key; `poison` if it cannot be handled."""
        for key in self.keys if keys is None else keys:
            with self._feeding:
                number = self.number()
                event = self.kit.asked(trail=key, number=number, wish=wish)
                self.produce(key, msgspec.json.encode(event), headers(f"{key}-{number}"))
                if poison:
                    self.rejected.append((key, number))
                else:
                    self.asked[key].append(number)
        self.flush()

    def produce(
        self, key: str | bytes | None, value: bytes | None, head: Sequence[tuple[str, bytes | str | None]] | None
    ) -> None:
        """Produce any record to the service's input; the caller flushes."""
        to = partition(key, self._partitions) if isinstance(key, str) else 0
        producer(self.servers.kafka.bootstrap).produce(
            self.kit.asked.topic, value, key, partition=to, headers=None if head is None else list(head)
        )

    def number(self) -> int:
        """Return a new number."""
        return next(self._numbers)

    def flush(self) -> None:
        """Wait until all that was produced is acknowledged."""
        left = producer(self.servers.kafka.bootstrap).flush(FLUSH_SECONDS)
        assert left == 0, f"{left} records were not acknowledged within {FLUSH_SECONDS:.0f} s"

    def request(self, keys: Iterable[str] | None = None) -> None:
        """Do for each key what an HTTP request does: change the aggregate and publish that, in one transaction."""
        for key in self.keys if keys is None else keys:
            number = self.number()
            with self.requests.transaction() as session:
                self.step(session, key, number)
            self.requested[key].append(number)

    def schedule(self) -> None:
        """Do requests that publish their steps only after a moment; their keys are those of no other request, and so
        their steps are still in order.
        """
        for key in self.late_keys:
            number = self.number()
            with self.requests.transaction() as session:
                told = trail.step(session, self.kit, key, number, requested=True)
                session.schedule(told, after=MOMENT, name=f"{key} {number}")
            self.requested[key].append(number)

    @contextmanager
    def open_request(self, keys: Sequence[str]) -> Iterator[None]:
        """Do a request whose rows are in the outbox, and commit them only when the block ends."""
        numbers = {key: self.number() for key in keys}
        with Session(self._engine) as session, session.begin():
            for key, number in numbers.items():
                self.step(session, key, number)
            self.outbox.write(session)
            yield
        for key, number in numbers.items():
            self.requested[key].append(number)

    def step(self, session: Session, key: str, number: int) -> None:
        """Do the work of one request in a session of the caller's."""
        self.outbox.add(session, trail.step(session, self.kit, key, number, requested=True))

    @contextmanager
    def gate_closed(self) -> Iterator[None]:
        """Hold events that wish `wait` while the block runs."""
        self.connection.execute(f"CREATE TABLE {trail.GATE} ()".encode())
        yield
        self.connection.execute(f"DROP TABLE {trail.GATE}".encode())

    def at_gate(self) -> bool:
        """Return whether a handler waits at the gate."""
        return self.one(AT_GATE) > 0

    # ---- the books

    def one(self, query: str, *arguments: object) -> int:
        """Return the one number that a query answers."""
        row = self.connection.execute(query.encode(), arguments).fetchone()
        assert row is not None
        return int(row[0])

    def drained(self) -> bool:
        """Return whether all that was fed took effect and was published."""
        return (
            self.one("SELECT count(*) FROM effect") >= sum(map(len, self.asked.values()))
            and self.one("SELECT count(*) FROM exactly_once_dead_letter") >= len(self.rejected)
            and self.one("SELECT count(*) FROM exactly_once_outbox") == 0
            and self.one("SELECT count(*) FROM exactly_once_schedule WHERE due < now() + %s", SOON) == 0
        )

    def until_drained(self, seconds: float = SECONDS_MAX) -> None:
        """Wait until all that was fed took effect, was published and can be read: a commit is answered before its
        markers are in every partition.
        """
        self.until(self.drained, "everything is handled and published", seconds)
        self.until(lambda: not self.open_transactions(), "no transaction is open", seconds)

    def until_read(self) -> None:
        """Wait until every input was read to its end, even if nothing in it takes effect."""
        asked = self.kit.asked.topic
        self.until(lambda: self._handled() == self.ends(asked, IsolationLevel.READ_COMMITTED), "every input is read")

    def read(self, topic: str) -> list[Published]:
        """Read a topic from its beginning to its end, as a read_committed reader."""
        return outside.read(self.bootstrap, topic, self._partitions)

    def follow(self, go_on: Callable[[], bool]) -> Iterator[Published]:
        """Read the service's topic as a subscriber does, for as long as `go_on` says so."""
        return outside.follow(self.bootstrap, self.kit.told.topic, self._partitions, lambda _: go_on())

    def ends(self, topic: str, isolation: IsolationLevel) -> dict[int, int]:
        """Return each partition's end: the last stable offset for READ_COMMITTED, else the high watermark."""
        return outside.ends(self.bootstrap, topic, self._partitions, isolation)

    def committed(self) -> dict[int, tuple[int, str]]:
        """Return each lane's published position and metadata."""
        return outside.committed(self.bootstrap, self.name, self.kit.service.lane_topic, self._partitions)

    def offsets(self, topic: str) -> dict[int, int]:
        """Return the group's committed offsets of a topic."""
        found = outside.committed(self.bootstrap, self.name, topic, self._partitions)
        return {p: offset for p, (offset, _) in found.items()}

    def problems(self) -> list[str]:
        """Compare what was fed with the database and the topics; an empty list if all is well."""
        # The answer to a commit comes before its markers are in every partition.
        with suppress(AssertionError):
            until(lambda: not self.open_transactions(), "no transaction is open", MARKERS_SECONDS)
        return [str(anomaly) for anomaly in anomalies(self.history())]

    def history(self, live: Iterable[Published] = ()) -> History:
        """Return the history of the run; `live` is what a reader following the service's topic saw."""
        execute = self.connection.execute
        return History(
            asked=self.asked,
            requested=self.requested,
            in_doubt=self.in_doubt,
            rejected=self.rejected,
            effects=execute("SELECT key, number FROM effect").fetchall(),
            trails={k: Trail(*r) for k, *r in execute("SELECT key, steps, handled, requested FROM trail")},
            dead_letters=execute('SELECT partition, "offset" FROM exactly_once_dead_letter').fetchall(),
            told=[consumed(published) for published in self.read(self.kit.told.topic)],
            announced_dead_letters=[published.event_id for published in self.read(self.kit.service.dead_letter_topic)],
            live=[consumed(published) for published in live],
            handled=self._handled(),
            readable=self.ends(self.kit.asked.topic, IsolationLevel.READ_COMMITTED),
            published=self.committed(),
            claims={
                lane: (position, str(claim or ""))
                for lane, position, claim in execute("SELECT lane, position, claim_id FROM exactly_once_lane")
            },
            unpublished=self.one("SELECT count(*) FROM exactly_once_outbox"),
            open_transactions=self.open_transactions(),
        )

    def _handled(self) -> dict[int, int]:
        query = "SELECT partition, next_offset FROM exactly_once_position WHERE topic = %s"
        return dict(self.connection.execute(query, [self.kit.asked.topic]).fetchall())

    def open_transactions(self) -> list[str]:
        """Name the topics of the service that hold back their readers."""
        found = []
        for topic in (self.kit.told.topic, self.kit.service.dead_letter_topic):
            stable = self.ends(topic, IsolationLevel.READ_COMMITTED)
            high = self.ends(topic, IsolationLevel.READ_UNCOMMITTED)
            if stable != high:
                found.append(f"{topic}: a transaction is open; last stable offsets {stable}, ends {high}")
        return found


def consumed(published: Published) -> Consumed:
    """Return an event as the history has it."""
    event = msgspec.json.decode(published.data, type=trail.Told)
    return Consumed(published.partition, published.offset, published.event_id, published.key, event.step, event.number)


def admin(servers: Servers | ClusterServers) -> AdminClient:
    """An admin client."""
    return outside.admin(servers.kafka.bootstrap)


def _led(client: AdminClient, names: Collection[str]) -> bool:
    """Whether each partition has a leader that answers: the broker names a topic a moment before. A worker asks again,
    a test that asks once would fail.
    """
    known = client.list_topics(timeout=SECONDS_MAX).topics
    partitions = [TopicPartition(name, n) for name in names if name in known for n in known[name].partitions]
    asked = client.list_offsets({partition: OffsetSpec.latest() for partition in partitions})  # type: ignore[no-untyped-call]
    try:
        ends = [answer.result(SECONDS_MAX).offset for answer in asked.values()]
    except KafkaException:
        return False
    return set(names) <= known.keys() and min(ends) >= 0


_one_at_a_time = threading.Lock()


@cache
def _template(dsn: str, servers_dsn: str, name: str, partitions: int) -> None:
    with psycopg.connect(servers_dsn, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    engine = create_engine(dsn, poolclass=NullPool)
    with engine.begin() as connection:
        trail.create_tables(connection)
        trail.seed_lanes(connection, partitions)
        roles.grant(connection, RUNTIME)


def make_template(servers: Servers | ClusterServers, partitions: int) -> None:
    """Make the database that a stage's database is copied from."""
    name = f"{TEMPLATE}_{partitions}"
    dsn = servers.postgres.dsn(name).replace("postgresql://", "postgresql+psycopg://")
    with _one_at_a_time:
        servers.postgres.create_role(RUNTIME)
        _template(dsn, servers.postgres.dsn(), name, partitions)
