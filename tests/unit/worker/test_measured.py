"""What passes through a worker's ports is counted, by what is declared, and nothing of it changes."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared import Id, Service
from shared.errors import HandlingFailed, KafkaInDoubt
from shared.events import Event
from shared.kafka import consumer, producer
from shared.postgres import transaction
from shared.protocol.ports import Arrival, Delivery, Input, NewDeadLetter, NewParked, OutboxRow, Polled, Record
from shared.session import Session
from shared.worker import measured
from shared.worker.measured import MeasuredDatabase, MeasuredMember, MeasuredProducer


class Weighed(Event, key="number", topic="scales.events"):
    """An event that the service consumes."""

    number: Id


class Packed(Event, key="number", topic="boxes.events"):
    """One of another topic."""

    number: Id


class Labelled(Event, key="number", topic="labels.events"):
    """One that it publishes."""

    number: Id


def service() -> Service:
    made = Service("labels", publishes=(Labelled,))

    @made.on(Weighed)
    def weigh(event: Weighed, session: Session) -> None:
        """Weigh."""

    @made.on(Packed)
    def pack(event: Packed, session: Session) -> None:
        """Pack."""

    return made


class Change:
    """How much each value of the metrics has grown since the test began."""

    def __init__(self) -> None:
        self._before = self._values()

    def _values(self) -> dict[tuple[str, str], float]:
        return {
            (sample.name.removeprefix("exactly_once_"), ",".join(sample.labels.values())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    def of(self, name: str, labels: str = "") -> float:
        return self._values()[name, labels] - self._before.get((name, labels), 0.0)


@pytest.fixture
def change() -> Change:
    return Change()


@pytest.fixture(autouse=True)
def _no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the real ports out: they would ask for servers."""

    def init(self: Any, *_given: Any, **_named: Any) -> None:
        self._service = service()

    for real in (consumer.GroupMember, producer.TransactionalProducer, transaction.WorkerDatabase):
        monkeypatch.setattr(real, "__init__", init)


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> MeasuredProducer:
    """Return a producer whose calls all succeed at once."""
    for call in ("begin", "produce", "send_offsets", "commit"):
        monkeypatch.setattr(producer.TransactionalProducer, call, lambda *_: None)
    return MeasuredProducer()


def row(topic: str, data: bytes, time: str = "2026-11-30T00:00:00.000000Z") -> OutboxRow:
    return OutboxRow(topic, "k", "e", "Labelled", 1, time, data, None)


def publish(publishing: MeasuredProducer, rows: Sequence[OutboxRow]) -> None:
    publishing.begin()
    publishing.produce(rows)
    publishing.send_offsets({}, {}, object())
    publishing.commit()


def test_records_are_counted_by_topic_when_they_are_received(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    found = [Record(Input("scales.events", 0), n, b"k", b"12345", None) for n in range(3)]
    found += [
        Record(Input("boxes.events", 1), 0, b"k", None, None),
        Record(Input("boxes.events", 1), 1, b"k", b"1", None),
    ]
    answers = [Polled(found, {}, None, "metadata"), Polled((), {}, None, "metadata")]
    polls = list(answers)
    monkeypatch.setattr(consumer.GroupMember, "poll", lambda *_: polls.pop(0))
    member = MeasuredMember()

    assert [member.poll(10, 1.0), member.poll(10, 1.0)] == answers, "the same as without"
    assert (
        change.of("records_received_total", "scales.events"),
        change.of("received_bytes_total", "scales.events"),
    ) == (3, 15)
    assert (change.of("records_received_total", "boxes.events"), change.of("received_bytes_total", "boxes.events")) == (
        2,
        1,
    )


def test_a_transaction_is_counted_when_it_is_committed(publishing: MeasuredProducer, change: Change) -> None:
    publishing.begin()
    publishing.produce([row("labels.events", b"123"), row("labels.events", b"45"), row("labels.dead-letters", b"6")])
    assert change.of("records_published_total", "labels.events") == 0
    publishing.commit()

    assert (
        change.of("records_published_total", "labels.events"),
        change.of("published_bytes_total", "labels.events"),
    ) == (2, 5)
    assert change.of("published_bytes_total", "labels.dead-letters") == 1
    assert (change.of("kafka_transaction_rows_count"), change.of("kafka_transaction_rows_sum")) == (1, 3)
    assert change.of("kafka_transaction_seconds_count") == 1


def test_a_transaction_that_only_reports_publishes_nothing(publishing: MeasuredProducer, change: Change) -> None:
    publish(publishing, [row("labels.events", b"1")])
    publish(publishing, ())

    assert change.of("records_published_total", "labels.events") == 1, "the rows of the first are not counted again"
    assert (change.of("kafka_transaction_rows_count"), change.of("publish_seconds_count")) == (2, 1)


def test_a_topic_that_is_not_declared_has_no_label_of_its_own(publishing: MeasuredProducer, change: Change) -> None:
    publish(publishing, [row(f"labels.of-before-{n}", b"12") for n in range(50)])

    assert (change.of("records_published_total", "(other)"), change.of("published_bytes_total", "(other)")) == (50, 100)


def test_the_oldest_row_says_how_long_publishing_took(
    monkeypatch: pytest.MonkeyPatch, publishing: MeasuredProducer, change: Change
) -> None:
    monkeypatch.setattr(measured, "time", SimpleNamespace(time=lambda: 1_796_000_000.0, perf_counter=lambda: 0.0))
    at = "2026-11-30T00:53:{:09.6f}Z"  # 1,796,000,000 is 20 s after the full minute
    publish(publishing, [row("labels.events", b"", at.format(19.0)), row("labels.events", b"", at.format(17.25))])
    assert change.of("publish_seconds_sum") == pytest.approx(2.75)

    publish(publishing, [row("labels.events", b"", at.format(21.5))])
    assert change.of("publish_seconds_sum") == pytest.approx(2.75), "PostgreSQL's clock is ahead: never below 0"


@pytest.mark.parametrize("time", ["", "12026-11-30T00:00:00.000000Z", "0001-01-01T00:00:00.000000 BC"])
def test_a_time_that_python_has_no_word_for_fails_nothing(
    publishing: MeasuredProducer, change: Change, time: str
) -> None:
    publish(publishing, [row("labels.events", b"1", time)])

    assert (change.of("records_published_total", "labels.events"), change.of("publish_seconds_count")) == (1, 0)


@pytest.mark.parametrize("call", ["produce", "send_offsets", "commit"])
def test_a_transaction_that_fails_is_counted_by_its_error(
    monkeypatch: pytest.MonkeyPatch, publishing: MeasuredProducer, change: Change, call: str
) -> None:
    def fail(*_: object) -> None:
        raise KafkaInDoubt

    monkeypatch.setattr(producer.TransactionalProducer, call, fail)
    with pytest.raises(KafkaInDoubt):
        publish(publishing, [row("labels.events", b"1")])

    assert change.of("kafka_transactions_failed_total", "KafkaInDoubt") == 1
    assert change.of("records_in_doubt_total", "labels.events") == 1
    assert (change.of("records_published_total", "labels.events"), change.of("kafka_transaction_seconds_count")) == (
        0,
        0,
    )


def delivery(event: Event) -> Delivery:
    return Delivery(Record(Input("scales.events", 0), 0, b"k", b"", None), None, event, 1)  # type: ignore[arg-type]


class Inner:
    """A transaction that notes what it is given."""

    error: Exception | None = None
    advance = "the inner one's"

    def __init__(self) -> None:
        self.handled: list[Delivery] = []
        self.committed = 0

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        self.handled += deliveries
        if self.error is not None:
            raise self.error

    def receive(self, *given: object) -> object:
        return given

    def set_aside(self, *_: object) -> None:
        """Do nothing."""

    park = set_aside

    def commit(self) -> None:
        self.committed += 1


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> MeasuredDatabase:
    """Return a database whose transactions do nothing."""
    monkeypatch.setattr(transaction.WorkerDatabase, "begin", lambda _: Inner())
    return MeasuredDatabase()


def test_the_time_of_handlers_is_that_of_a_batch_of_one_type(database: MeasuredDatabase, change: Change) -> None:
    given = [delivery(Weighed(number="1")), delivery(Weighed(number="2"))]
    made: Any = database.begin()
    made.handle(given)
    assert change.of("batch_events_count") == 0
    made.commit()

    assert (made._inner.handled, made._inner.committed, made.advance) == (given, 1, "the inner one's")
    assert (change.of("handling_events_total", "Weighed"), change.of("handling_events_total", "(mixed)")) == (2, 0)
    assert change.of("handling_seconds_total", "Weighed") > 0
    assert (change.of("batch_events_count"), change.of("batch_events_sum")) == (1, 2)
    assert change.of("database_transaction_seconds_count") == 1


def test_a_batch_of_several_types_is_no_measure_of_any(database: MeasuredDatabase, change: Change) -> None:
    database.begin().handle([delivery(Weighed(number="1")), delivery(Packed(number="1"))])

    assert change.of("handling_events_total", "(mixed)") == 2
    assert (change.of("handling_events_total", "Weighed"), change.of("handling_events_total", "Packed")) == (0, 0)


def test_a_transaction_without_events_is_measured_as_one(database: MeasuredDatabase, change: Change) -> None:
    made = database.begin()
    made.handle(())
    made.commit()

    assert (change.of("database_transaction_seconds_count"), change.of("batch_events_count")) == (1, 0)


def test_what_fails_is_not_measured(database: MeasuredDatabase, change: Change) -> None:
    made: Any = database.begin()
    made._inner.error = HandlingFailed(None)
    with pytest.raises(HandlingFailed):
        made.handle([delivery(Weighed(number="1"))])

    assert (change.of("handling_events_total", "Weighed"), change.of("database_transaction_seconds_count")) == (0, 0)


SCALES, BOXES = Input("scales.events", 0), Input("boxes.events", 0)


def decided(change: Change, topic: str) -> list[float]:
    """Return how many records of a topic were handled, dropped as duplicates, parked and set aside."""
    return [change.of("records_decided_total", f"{topic},{status}") for status in measured.STATUSES]


def test_each_record_is_counted_by_what_became_of_it(database: MeasuredDatabase, change: Change) -> None:
    records = [Record(source, n, b"k", b"", None) for source in (SCALES, BOXES) for n in range(4)]
    weighed = [Delivery(record, None, Weighed(number="1"), 1) for record in records[:2]]  # type: ignore[arg-type]
    failed = NewDeadLetter(records[4], 1, None, ValueError())
    later = NewParked(records[2], 1, "desk", "e", None, first=True)
    place = NewParked(records[4], 1, "desk", "e", None, first=True, aside=True)
    arrivals = [Arrival(record.input, record.offset, "desk", "e") for record in (*records[:4], *records[5:])]
    made: Any = database.begin()
    assert made.receive([SCALES, BOXES], arrivals) == ([SCALES, BOXES], arrivals)
    made.handle(weighed)
    made.set_aside([failed])
    made.park([later, place])
    assert decided(change, "scales.events") == [0, 0, 0, 0], "it may still be rolled back"
    made.commit()

    assert decided(change, "scales.events") == [2, 1, 1, 0]
    assert decided(change, "boxes.events") == [0, 3, 0, 1]


def test_a_parked_record_that_is_tried_again_is_no_duplicate(database: MeasuredDatabase, change: Change) -> None:
    made: Any = database.begin()
    made.receive([SCALES], ())
    made.handle([delivery(Weighed(number="1"))])
    made.commit()

    assert decided(change, "scales.events") == [1, 0, 0, 0]
