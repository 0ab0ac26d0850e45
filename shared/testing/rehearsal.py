"""A real service, with workers that die at one exact call on request: a stage for the author of handlers.

    with Rehearsal(ShippingContainer, servers, tmp_path) as rehearsal:
        dying = rehearsal.worker(Plan("kafka.commit", after=True))
        rehearsal.tell([StockReserved(order_id="o-1")])
        rehearsal.until_killed(dying)
        rehearsal.worker()
        rehearsal.until_drained()
        assert rehearsal.problems() == []

It is the service with its own migrations and handlers in the container of every worker, on a separate database. Only
its name and its topics differ, so that many can share the servers.
"""

import signal
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import psycopg
from confluent_kafka import IsolationLevel

from ..container import ServiceContainer, providers
from ..events import Event
from ..kafka import topics as kafka_topics
from ..postgres.engine import refuse_unsafe
from ..postgres.migrations import migrate
from ..service import Service
from ..settings import Settings
from ..worker import startup
from . import outside
from .crashing_worker import Order, Plan
from .servers import Servers
from .waiting import SECONDS_MAX, until
from .workers import TIMEOUTS, StageSettings, Worker, headers, processes, producer

PARTITIONS = 2
Published = TypeVar("Published", bound=Event)


def events(service: Service) -> list[type[Event]]:
    """Return all types that a service consumes and publishes."""
    return list(dict.fromkeys([*(route.event for route in service.routes), *service.publishes]))


def build(container: type[ServiceContainer], name: str, settings: Settings) -> ServiceContainer:
    """Assemble the real service under another name; called in a worker's process."""
    made = container()
    known = made.service()
    # First all, then each: a second version of an event may have its topic from the first.
    topics = {event: event.topic for event in events(known)}
    for event, topic in topics.items():
        event.topic = f"{name}.{topic}"
    known.name = name  # not an override of the container's `service`: it would not reach the providers that have it
    made.settings.override(providers.Object(settings))

    def check() -> None:  # the history of migrations has the service's own name
        kafka_topics.check_libraries()
        refuse_unsafe(made.worker_engine())
        startup.check_topics(made.worker_engine(), settings, known)

    made.check.override(providers.Callable(check))
    return made


class Rehearsal:
    """One service, what it was told, and its results."""

    def __init__(self, container: type[ServiceContainer], servers: Servers, logs: Path) -> None:
        self._container = container
        self._known: Service = container().service()
        self.name = f"{self._known.name}-{uuid.uuid4().hex[:12]}"
        self._servers = servers
        self._logs = logs
        self._workers: list[Worker] = []
        self._told: list[str] = []
        self._topics = {event: event.topic for event in events(self._known)}

    def __enter__(self) -> Self:
        for event, topic in self._topics.items():
            event.topic = f"{self.name}.{topic}"
        self.service = self._known.renamed(self.name)
        self._servers.postgres.create_database(self.name)
        self._settings: Settings = StageSettings.model_validate(
            {
                "kafka_bootstrap_servers": self._servers.kafka.bootstrap,
                "database_url": self._servers.postgres.dsn(self.name),
                "partitions": PARTITIONS,
                **TIMEOUTS,
            }
        )
        migrate(self._settings, self._known.name)
        kafka_topics.create_topics(self._settings, self.service)
        self.connection = psycopg.connect(self._servers.postgres.dsn(self.name), autocommit=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.connection:
            for worker in self._workers:
                worker.stopped = True
                worker.send(signal.SIGKILL)
            for worker in self._workers:
                worker.ended()
                worker.process.close()
            if error is not None:
                error.add_note("\n".join(f"--- {worker.order.log.name}\n{worker.log()}" for worker in self._workers))
        self._servers.postgres.drop_database(self.name)
        outside.admin(self._servers.kafka.bootstrap).delete_topics(kafka_topics.needed(self.service))  # not waited for
        for event, topic in self._topics.items():
            event.topic = topic

    def worker(self, plan: Plan | None = None) -> Worker:
        """Start a worker, which dies as planned."""
        log = self._logs / f"{self.name}-{len(self._workers)}.log"
        log.touch()
        armed, happened = processes.Event(), processes.Event()
        armed.set()
        order = Order(self.name, self._settings, log, plan, armed, happened, partial(build, self._container))
        self._workers.append(Worker(order))
        return self._workers[-1]

    def tell(self, told: Iterable[Event]) -> None:
        """Publish what the service consumes, as another service would."""
        out = producer(self._servers.kafka.bootstrap)
        for event in told:
            event_id = f"{self.name}-{len(self._told)}"
            head = headers(event_id, f"{type(event).__name__}.v{type(event).version}")
            out.produce(event.topic, msgspec.json.encode(event), event.key, headers=head)
            self._told.append(event_id)
        assert out.flush(SECONDS_MAX) == 0

    def until_killed(self, worker: Worker) -> None:
        """Wait until the worker has reached the call at which it dies."""
        ended = worker.ended()
        assert ended == -signal.SIGKILL, f"it ended with {ended} and did not come to {worker.order.plan}"

    def until_drained(self) -> None:
        """Wait until everything is handled, published and readable."""

        def drained() -> bool:
            for worker in self._workers:
                if not worker.order.plan:
                    worker.supervise()
            return not list(self._pending())

        until(drained, f"{self.name} is drained")

    def published(self, event: type[Published]) -> list[Published]:
        """Return the service's published events of one type, as a read_committed reader sees them."""
        wanted = f"{event.__name__}.v{event.version}"
        return [
            msgspec.json.decode(record.data, type=event) for record in self._read(event.topic) if record.type == wanted
        ]

    def problems(self) -> list[str]:
        """Compare what was told with the database and the topics; return the problems found."""
        with suppress(AssertionError):
            self.until_drained()
        return [*self._pending(), *self._doubled()]

    def _pending(self) -> Iterator[str]:
        handled = {event_id for (event_id,) in self.connection.execute("SELECT event_id FROM exactly_once_inbox")}
        if missing := [event_id for event_id in self._told if event_id not in handled]:
            yield f"not handled: {missing}"
        for table in ("exactly_once_outbox", "exactly_once_dead_letter"):
            if count := self._one(f"SELECT count(*) FROM {table}"):
                yield f"{count} rows in {table}"
        for topic in self.service.published_topics:
            if self._ends(topic, IsolationLevel.READ_COMMITTED) != self._ends(topic, IsolationLevel.READ_UNCOMMITTED):
                yield f"a transaction is open on {topic}"
        for topic in self.service.consumed_topics:
            rows = self.connection.execute(
                "SELECT partition, next_offset FROM exactly_once_position WHERE topic = %s", (topic,)
            )
            if dict(rows.fetchall()) != self._ends(topic, IsolationLevel.READ_COMMITTED):
                yield f"{topic} is not read to its end"

    def _doubled(self) -> Iterator[str]:
        for topic in self.service.published_topics:
            ids = Counter(record.event_id for record in self._read(topic))
            if repeated := [event_id for event_id, count in ids.items() if count > 1]:
                yield f"published more than once on {topic}: {repeated}"

    def _ends(self, topic: str, isolation: IsolationLevel) -> dict[int, int]:
        return outside.ends(self._servers.kafka.bootstrap, topic, PARTITIONS, isolation)

    def _read(self, topic: str) -> list[outside.Published]:
        return outside.read(self._servers.kafka.bootstrap, topic, PARTITIONS)

    def _one(self, query: str) -> int:
        row = self.connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])
