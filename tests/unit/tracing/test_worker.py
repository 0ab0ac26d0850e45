"""The spans around a worker's two ports."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.baggage import get_baggage
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, StatusCode, get_current_span

from shared import Id
from shared.errors import Fenced, HandlingFailed
from shared.events import Envelope, Event
from shared.postgres.deadline import Deadline
from shared.protocol.ports import Delivery, Input, OutboxRow, Record
from shared.service import Service
from shared.session import Session
from shared.trace_context import of_text
from shared.tracing.worker import TracedHandlers, TracedTransaction, _Sending
from tests.unit.tracing.spans_kept import CAUSE, UNSAMPLED, Kept, kept

BAGGAGE = "tenant=eu-7,name=Am%C3%A9lie"


class Asked(Event, key="number", topic="desk.events"):
    """An event."""

    number: Id


def delivery(offset: int, traceparent: str | None, key: str = "k-1") -> Delivery:
    """Return an event at an offset."""
    envelope = Envelope(f"e-{offset}", "desk", "Asked", 1, "2026-11-30T00:00:00Z", key, b"{}", traceparent)
    record = Record(Input("desk.events", 3), offset, key.encode(), b"{}", None)
    return Delivery(record, envelope, Asked(number=key), 1)


class Inner:
    """A transaction that notes what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.handled: list[Delivery] = []
        self.ended: list[str] = []
        self.advance = "what is not traced is the inner one's"

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        self.handled += deliveries
        if self.error is not None:
            raise self.error

    def commit(self) -> None:
        self.ended.append("commit")

    def rollback(self) -> None:
        self.ended.append("rollback")


def traced(inner: Inner, around: Kept) -> TracedTransaction:
    return TracedTransaction(cast("Any", inner), around.traces, {})


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_an_event_is_handled_in_the_trace_of_its_cause() -> None:
    around, inner = kept(), Inner()
    transaction = traced(inner, around)
    transaction.handle([delivery(7, CAUSE)])
    assert around.spans() == {}, "the spans last as long as the transaction"
    transaction.commit()

    spans = around.spans()
    handled, batch, commit = spans["handle Asked"], spans["process desk.events"], spans["COMMIT stock"]
    assert handled.parent is not None
    assert (handled.parent.trace_id, handled.parent.span_id) == (int(CAUSE[3:35], 16), int(CAUSE[36:52], 16))
    assert inner.handled[0].envelope.traceparent == f"{CAUSE[:36]}{handled.context.span_id:016x}-01"
    assert inner.handled[0].record == delivery(7, CAUSE).record
    assert [link.context.span_id for link in handled.links] == [batch.context.span_id]
    assert [link.context.span_id for link in batch.links] == [int(CAUSE[36:52], 16)]
    assert (batch.parent, batch.context.trace_id == handled.context.trace_id) == (None, False)
    assert commit.parent is not None
    assert commit.parent.span_id == batch.context.span_id
    assert attributes(handled) == {
        "messaging.system": "kafka",
        "messaging.destination.name": "desk.events",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7,
        "messaging.kafka.message.key": "k-1",
        "messaging.message.id": "e-7",
    }
    assert attributes(batch)["messaging.batch.message_count"] == 1
    assert attributes(batch)["messaging.consumer.group.name"] == "inventory"
    assert inner.ended == ["commit"]
    assert transaction.advance == inner.advance


def test_a_cause_that_is_not_sampled_has_no_spans_and_what_follows_is_not_sampled_either() -> None:
    around, inner = kept(), Inner()
    transaction = traced(inner, around)
    transaction.handle([delivery(7, UNSAMPLED)])
    transaction.commit()
    assert "handle Asked" not in around.spans()
    told = inner.handled[0].envelope.traceparent or ""
    assert (told[:36], told[-3:]) == (UNSAMPLED[:36], "-00")


def test_what_a_handler_publishes_has_the_state_and_the_baggage_of_its_cause() -> None:
    around, inner = kept(), Inner()
    transaction = traced(inner, around)
    transaction.handle([delivery(7, f"{CAUSE}\ntracestate: ot=th:c\nbaggage: {BAGGAGE}"), delivery(8, CAUSE)])
    transaction.commit()

    first, second = (of_text(handled.envelope.traceparent) for handled in inner.handled)
    assert (first.traceparent[:36], first.tracestate, first.baggage) == (CAUSE[:36], "ot=th:c", BAGGAGE)
    assert second.headers()[1:] == []


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 70_000])
def test_a_cause_without_a_context_begins_a_trace(traceparent: str | None) -> None:
    around, inner = kept(), Inner()
    transaction = traced(inner, around)
    transaction.handle([delivery(7, traceparent)])
    transaction.commit()
    assert around.spans()["handle Asked"].parent is None
    assert not around.spans()["process desk.events"].links


def test_a_failure_is_seen_at_its_event_and_its_batch() -> None:
    bad = delivery(8, CAUSE, "k-2")
    error = HandlingFailed(bad.record)
    error.__cause__ = ValueError("no such shelf")
    around = kept()
    transaction = traced(inner := Inner(error), around)
    with pytest.raises(HandlingFailed):
        transaction.handle([delivery(7, CAUSE), bad])
    transaction.rollback()
    assert inner.ended == ["rollback"]
    by_offset = {attributes(span).get("messaging.kafka.offset"): span for span in around.exporter.get_finished_spans()}
    failed, other, batch = by_offset[8], by_offset[7], by_offset[None]
    assert failed.status.description == batch.status.description == "ValueError: no such shelf"
    assert attributes(failed)["error.type"] == "ValueError"
    assert other.status.status_code is StatusCode.UNSET
    assert [event.name for event in other.events] == ["rolled back"]


def test_a_batch_keeps_as_many_links_as_the_sdk_and_none_twice() -> None:
    around = kept()
    transaction = traced(Inner(), around)
    causes = [f"{CAUSE[:36]}{n + 1:016x}-01" for n in range(200)]
    transaction.handle([delivery(n, cause) for n, cause in enumerate([*causes[:1] * 3, *causes])])
    transaction.commit()
    links = around.spans()["process desk.events"].links
    assert [link.context.span_id for link in links] == list(range(1, 129))


def test_a_transaction_without_events_has_no_span() -> None:
    around, inner = kept(), Inner()
    transaction = traced(inner, around)
    transaction.handle([])
    transaction.commit()
    traced(inner, around).rollback()
    assert inner.ended == ["commit", "rollback"]
    assert around.spans() == {}


class NoDatabase(Session):
    """A session that needs none."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None))


def seen(service: Service, *deliveries: Delivery) -> dict[tuple[Input, int], Span]:
    """Handle events as a traced worker does; return their spans."""
    around, inner, spans = kept(), Inner(), dict[tuple[Input, int], Span]()
    TracedTransaction(cast("Any", inner), around.traces, spans).handle(deliveries)
    handlers = TracedHandlers(service, Deadline(), spans)
    handlers.run(inner.handled, NoDatabase(), lambda _one, _events: None)
    return spans


def test_a_handler_sees_its_span_and_the_baggage_and_the_next_one_its_own() -> None:
    service, found = Service("inventory"), list[Any]()

    @service.on(Asked)
    def handler(event: Asked) -> None:
        found.append((event.number, get_baggage("tenant"), get_baggage("name"), get_current_span()))

    spans = seen(service, delivery(7, f"{CAUSE}\nbaggage: {BAGGAGE}", "k-1"), delivery(8, CAUSE, "k-2"))
    first, second = (spans[Input("desk.events", 3), offset] for offset in (7, 8))
    assert found == [("k-1", "eu-7", "Amélie", first), ("k-2", None, None, second)]
    assert get_baggage("tenant") is None


def test_a_handler_that_fails_leaves_no_baggage_behind() -> None:
    service = Service("inventory")

    @service.on(Asked)
    def handler(event: Asked) -> None:
        raise ValueError(get_baggage("tenant"))

    with pytest.raises(HandlingFailed) as failed:
        seen(service, delivery(7, f"{CAUSE}\nbaggage: {BAGGAGE}"))
    assert str(failed.value.__cause__) == "eu-7"
    assert get_baggage("tenant") is None


def test_a_batch_handler_sees_the_baggage_of_an_event_that_is_alone() -> None:
    service, found = Service("inventory"), list[object]()

    @service.on_batch(Asked)
    def handler(events: Sequence[Asked]) -> None:
        found.append((len(events), get_baggage("tenant")))

    cause = f"{CAUSE}\nbaggage: {BAGGAGE}"
    seen(service, delivery(7, cause))
    seen(service, delivery(7, cause), delivery(8, cause))
    assert found == [(1, "eu-7"), (2, None)]


class Producer:
    """A producer whose `fails` raises."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> None:
            self.calls.append(name)
            if name == self.fails:
                raise Fenced(name)

        return call


ROWS = [OutboxRow(topic, "k", "e", "Told", 1, "now", b"{}", CAUSE) for topic in ("desk.events", "desk.events")]


def publish(around: Kept, producer: Producer) -> None:
    sending = _Sending(around.traces, cast("Any", producer))
    sending.begin()
    sending.produce(ROWS)
    sending.send_offsets({}, {}, SimpleNamespace())
    sending.commit()


def test_what_is_published_is_a_span_linked_to_what_decided_it() -> None:
    around, producer = kept(), Producer()
    publish(around, producer)
    assert producer.calls == ["begin", "produce", "send_offsets", "commit"]
    span = around.spans()["send desk.events"]
    assert [link.context.span_id for link in span.links] == [int(CAUSE[36:52], 16)]
    assert attributes(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 2,
        "messaging.destination.name": "desk.events",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("fails", ["produce", "send_offsets", "commit"])
def test_a_kafka_transaction_that_fails_says_so(fails: str) -> None:
    around = kept()
    with pytest.raises(Fenced):
        publish(around, Producer(fails))
    assert attributes(around.spans()["send desk.events"])["error.type"] == "Fenced"


def test_a_transaction_that_only_reports_offsets_has_no_span() -> None:
    around = kept()
    sending = _Sending(around.traces, cast("Any", Producer()))
    sending.begin()
    sending.produce([])
    sending.send_offsets({}, {}, None)
    sending.commit()
    assert around.spans() == {}
