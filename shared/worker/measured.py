"""A worker's two ports, measured: what passes through them, and how long their transactions take.

It costs some 20 us for each batch, and less than one for each event: what is counted of all rows is counted by
functions in C. Nothing here may fail, or change what the ports do.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import compress
from operator import itemgetter
from typing import Any, cast

from prometheus_client import Counter

from ..errors import ContentRefused, ExactlyOnceError, GenerationLost, KafkaInDoubt
from ..kafka.consumer import GroupMember
from ..kafka.producer import TransactionalProducer
from ..postgres.transaction import PostgresTransaction, WorkerDatabase
from ..protocol.ports import (
    Arrival,
    Committed,
    Delivery,
    Input,
    NewDeadLetter,
    NewParked,
    OutboxRow,
    Polled,
    Received,
)
from ..telemetry import metrics

OTHER = "(other)"
"""The label of a topic that the service does not declare, or no longer: one that others choose would have no bound."""
MIXED = "(mixed)"
"""The label of a batch with events of several types: how long each took, only the handlers' own code could tell."""

for _cause in (ContentRefused, GenerationLost, KafkaInDoubt):  # from 0 on, so that the first one is seen to come
    metrics.KAFKA_FAILED.labels(_cause.__name__)

_INPUT, _VALUE = itemgetter(0), itemgetter(3)
_TOPIC, _TIME, _DATA = itemgetter(0), itemgetter(5), itemgetter(6)
_RECORD, _EVENT = itemgetter(0), itemgetter(2)

STATUSES = ("handled", "duplicate", "parked", "set_aside")
"""What may become of a record."""


class Traffic:
    """Records and bytes by topic, with the labels of the topics resolved once."""

    def __init__(self, records: Counter, size: Counter, topics: Collection[str]) -> None:
        self._counters = {topic: (records.labels(topic), size.labels(topic)) for topic in (*topics, OTHER)}

    def count(self, topics: Sequence[str], sizes: Sequence[int]) -> None:
        """Count a record for each of `topics`, of the size at the same place."""
        kinds = set(topics)
        for topic in kinds:
            of = sizes if len(kinds) == 1 else list(compress(sizes, map(topic.__eq__, topics)))
            records, size = self._counters.get(topic) or self._counters[OTHER]
            records.inc(len(of))
            size.inc(sum(of))


class MeasuredMember(GroupMember):
    """A member of the group that counts what it receives."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._traffic = Traffic(metrics.RECORDS_RECEIVED, metrics.BYTES_RECEIVED, self._service.consumed_topics)

    def poll(self, records: int, seconds: float) -> Polled:
        """Poll, and count."""
        polled = super().poll(records, seconds)
        if found := polled.records:
            self._traffic.count(list(map(_TOPIC, map(_INPUT, found))), _sizes(list(map(_VALUE, found))))
        return polled


def _sizes(values: list[Any]) -> list[int]:
    try:
        return list(map(len, values))
    except TypeError:  # a record may have no value
        return [len(value or b"") for value in values]


class MeasuredProducer(TransactionalProducer):
    """A producer that measures its transactions. They count when they have plainly succeeded, or failed."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        topics = {*self._service.published_topics, self._service.dead_letter_topic}
        self._traffic = Traffic(metrics.RECORDS_PUBLISHED, metrics.BYTES_PUBLISHED, topics)
        self._in_doubt = {topic: metrics.RECORDS_IN_DOUBT.labels(topic) for topic in (*topics, OTHER)}
        self._began = 0.0
        self._rows: Sequence[OutboxRow] = ()
        self._sent: tuple[list[str], list[int], float | None] = ([], [], None)
        """Of the rows of this transaction: topics, sizes, and when the oldest was decided."""

    def begin(self) -> None:
        """Begin."""
        began = time.perf_counter()
        super().begin()
        self._began, self._rows, self._sent = began, (), ([], [], None)

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        """Produce, and count while the client sends."""
        self._rows = rows
        self._noting(super().produce, rows)
        if rows:
            self._sent = (list(map(_TOPIC, rows)), list(map(len, map(_DATA, rows))), _oldest(rows))

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:
        """Send them."""
        self._noting(super().send_offsets, inputs, lanes, group_metadata)

    def commit(self) -> None:
        """Commit, and show what was committed."""
        self._noting(super().commit)
        topics, sizes, oldest = self._sent
        metrics.KAFKA_TRANSACTION.observe(time.perf_counter() - self._began)
        metrics.KAFKA_ROWS.observe(len(topics))
        self._traffic.count(topics, sizes)
        if oldest is not None:
            metrics.PUBLISH.observe(max(time.time() - oldest, 0.0))

    def _noting(self, work: Callable[..., None], *given: Any) -> None:
        try:
            work(*given)
        except ExactlyOnceError as error:
            metrics.KAFKA_FAILED.labels(type(error).__name__).inc()
            for topic, rows in Tally(map(_TOPIC, self._rows)).items():
                self._in_doubt.get(topic, self._in_doubt[OTHER]).inc(rows)
            raise


def _oldest(rows: Sequence[OutboxRow]) -> float | None:
    """Return when the first of `rows` was decided, by PostgreSQL's clock. All times have one form and one zone, so that
    the first one in the order of text is the earliest.
    """
    try:
        return datetime.fromisoformat(min(map(_TIME, rows))).timestamp()
    except (ValueError, OverflowError):  # a clock beyond what Python's dates can tell
        return None


class MeasuredDatabase(WorkerDatabase):
    """A worker's database whose transactions are measured."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._types = {route.event: _handling(route.event.__name__) for route in self._service.routes}
        self._mixed = _handling(MIXED)
        self._decided = {
            (topic, status): metrics.RECORDS_DECIDED.labels(topic, status)
            for topic in (*self._service.consumed_topics, OTHER)
            for status in STATUSES
        }

    def begin(self) -> PostgresTransaction:
        """Begin."""
        began = time.perf_counter()
        return cast("PostgresTransaction", MeasuredTransaction(super().begin(), began, self._counters, self._decide))

    def _decide(self, topic: str, status: str, records: int) -> None:
        (self._decided.get((topic, status)) or self._decided[OTHER, status]).inc(records)

    def _counters(self, deliveries: Sequence[Delivery]) -> tuple[Counter, Counter]:
        """Return the counters of seconds and events of a batch."""
        kinds = set(map(type, map(_EVENT, deliveries)))
        return self._types.get(kinds.pop(), self._mixed) if len(kinds) == 1 else self._mixed


def _handling(kind: str) -> tuple[Counter, Counter]:
    return metrics.HANDLING_SECONDS.labels(kind), metrics.HANDLING_EVENTS.labels(kind)


class MeasuredTransaction:
    """One transaction of the cycle. What it counts becomes visible with its commit."""

    def __init__(
        self,
        inner: PostgresTransaction,
        began: float,
        counters: Callable[[Sequence[Delivery]], tuple[Counter, Counter]],
        decide: Callable[[str, str, int], None],
    ) -> None:
        self._inner = inner
        self._began = began
        self._counters = counters
        self._decide = decide
        self._events = 0
        self._arrived: Tally[str] = Tally()
        self._decided: dict[str, Tally[str]] = {status: Tally() for status in STATUSES}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def receive(self, inputs: Collection[Input], arrivals: Sequence[Arrival]) -> Received:
        """Receive them."""
        received = self._inner.receive(inputs, arrivals)
        self._arrived = _by_topic(arrivals)
        return received

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Handle them, and show how long it took."""
        began = time.perf_counter()
        self._inner.handle(deliveries)
        if deliveries:
            seconds, events = self._counters(deliveries)
            seconds.inc(time.perf_counter() - began)
            events.inc(len(deliveries))
            self._events = len(deliveries)
            self._decided["handled"] += _by_topic(map(_RECORD, deliveries))

    def set_aside(self, dead_letters: Sequence[NewDeadLetter]) -> None:
        """Set them aside."""
        self._inner.set_aside(dead_letters)
        self._decided["set_aside"] += _by_topic(map(_RECORD, dead_letters))

    def park(self, records: Sequence[NewParked]) -> None:
        """Park them. Those of dead letters only hold a key."""
        self._inner.park(records)
        self._decided["parked"] += _by_topic(one.record for one in records if not one.aside)

    def commit(self) -> None:
        """Commit, and show what was committed."""
        self._inner.commit()
        metrics.DATABASE_TRANSACTION.observe(time.perf_counter() - self._began)
        if self._events:
            metrics.BATCH_EVENTS.observe(self._events)
        # Of what arrived, a duplicate is what was neither handled nor parked.
        self._decided["duplicate"] = self._arrived - self._decided["handled"] - self._decided["parked"]
        for status, found in self._decided.items():
            for topic, records in found.items():
                self._decide(topic, status, records)


def _by_topic(found: Iterable[Any]) -> Tally[str]:
    """Count what begins with an input."""
    return Tally(map(_TOPIC, map(_INPUT, found)))
