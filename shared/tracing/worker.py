"""A worker's two ports with spans around them. What the inner ones do stays as it is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import msgspec
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, SpanKind, set_span_in_context

from ..declaration.batches import BatchRoute
from ..errors import HandlingFailed
from ..kafka.client import KafkaClient
from ..kafka.consumer import GroupMember
from ..kafka.producer import TransactionalProducer
from ..postgres.deadline import Deadline
from ..postgres.handlers import Handlers
from ..postgres.transaction import PostgresTransaction
from ..protocol.ports import Committed, Delivery, Input, OutboxRow
from ..service import Service
from ..session import Session
from ..telemetry.spans import Traces, context_of, fail, of_batch, only, text_of
from ..worker.measured import MeasuredDatabase

Spans = dict[tuple[Input, int], Span]
"""The spans of the events of a transaction, by their records."""

KEY_MAX = 200
"""Characters kept of a key or an id, which may be longer."""


class TracedDatabase(MeasuredDatabase):
    """A worker's database whose transactions have spans."""

    def __init__(self, traces: Traces, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._traces = traces
        self._spans: Spans = {}
        self._handlers = TracedHandlers(self._service, self.deadline, self._spans)

    def begin(self) -> PostgresTransaction:
        return cast("PostgresTransaction", TracedTransaction(super().begin(), self._traces, self._spans))


class TracedHandlers(Handlers):
    """Runs each handler with the span of its event as the current one, and with the baggage of its cause."""

    def __init__(self, service: Service, deadline: Deadline, spans: Spans) -> None:
        super().__init__(service, deadline)
        self._spans = spans

    def _run_one(self, delivery: Delivery, session: Session, collect: Callable[..., None]) -> None:
        with self._within(delivery):
            super()._run_one(delivery, session, collect)

    def _run_together(
        self,
        routes: Sequence[BatchRoute],
        deliveries: Sequence[Delivery],
        session: Session,
        collect: Callable[..., None],
    ) -> None:
        """Several events have no one context."""
        with self._within(deliveries[0]) if len(deliveries) == 1 else nullcontext():
            super()._run_together(routes, deliveries, session, collect)

    @contextmanager
    def _within(self, delivery: Delivery) -> Iterator[None]:
        context = context_of(delivery.envelope.traceparent)
        if (span := self._spans.get(delivery.record[:2])) is not None:
            context = set_span_in_context(span, context)
        token = attach(context)
        try:
            yield
        finally:
            detach(token)


class TracedTransaction:
    """One transaction of the cycle: a span for its batch, and one for each event in the trace of its cause.

    What a handler publishes carries the context of its event's span. The spans end with the transaction.
    """

    def __init__(self, inner: PostgresTransaction, traces: Traces, spans: Spans) -> None:
        self._inner = inner
        self._traces = traces
        self._batch: Span | None = None
        self._events = spans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Handle them, each with the context of its own span."""
        if not deliveries:
            self._inner.handle(deliveries)
            return
        topics = [delivery.record.input.topic for delivery in deliveries]
        self._batch = self._traces.root(
            f"process {only(topics)}".rstrip(),
            SpanKind.CONSUMER,
            of_batch("process", "process", topics, len(deliveries))
            | {"messaging.consumer.group.name": self._traces.service},
            (delivery.envelope.traceparent for delivery in deliveries),
        )
        traced = [self._begun(delivery, self._batch) for delivery in deliveries]
        try:
            self._inner.handle(traced)
        except HandlingFailed as error:
            if isinstance(error.record, tuple) and (span := self._events.get(error.record[:2])):
                fail(span, error)
            fail(self._batch, error)
            raise

    def _begun(self, delivery: Delivery, batch: Span) -> Delivery:
        record, envelope = delivery.record, delivery.envelope
        span = self._traces.child(
            f"handle {envelope.type[:KEY_MAX]}",
            SpanKind.INTERNAL,
            {
                "messaging.system": "kafka",
                "messaging.destination.name": record.input.topic,
                "messaging.destination.partition.id": str(record.input.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.kafka.message.key": envelope.key[:KEY_MAX],
                "messaging.message.id": envelope.id[:KEY_MAX],
            },
            envelope.traceparent,
            batch,
        )
        self._events[record[:2]] = span
        return delivery._replace(
            envelope=msgspec.structs.replace(envelope, traceparent=text_of(span, envelope.traceparent))
        )

    def commit(self) -> None:
        """Commit, and end the spans."""
        if self._batch is None:
            self._inner.commit()
            return
        with self._traces.commit(self._batch):
            self._inner.commit()
        self._end()

    def rollback(self) -> None:
        """Undo everything, and say so in the spans: what is tried again has new ones."""
        self._inner.rollback()
        for span in (*self._events.values(), self._batch):
            if span is not None and span.is_recording():
                span.add_event("rolled back")
        self._end()

    def _end(self) -> None:
        for span in self._events.values():
            span.end()
        self._events.clear()
        if self._batch is not None:
            self._batch.end()
        self._batch = None


class TracedKafka(KafkaClient):
    """Kafka with a span for each transaction that publishes."""

    def __init__(self, traces: Traces, member: GroupMember, producer: TransactionalProducer) -> None:
        super().__init__(member, producer)
        sending = _Sending(traces, producer)
        self.begin = sending.begin
        self.produce = sending.produce
        self.send_offsets = sending.send_offsets
        self.commit = sending.commit


class _Sending:
    """The span of one Kafka transaction, from its first row to the end of its commit."""

    def __init__(self, traces: Traces, producer: TransactionalProducer) -> None:
        self._traces = traces
        self._producer = producer
        self._span: Span | None = None

    def begin(self) -> None:
        self._end()  # of a transaction that was given up
        self._producer.begin()

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        if rows:
            self._span = self._begun(rows)
        self._noting(self._producer.produce, rows)

    def _begun(self, rows: Sequence[OutboxRow]) -> Span:
        topics = [row.topic for row in rows]
        return self._traces.root(
            f"send {only(topics)}".rstrip(),
            SpanKind.PRODUCER,
            of_batch("send", "send", topics, len(rows)),
            (row.traceparent for row in rows),
        )

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:
        self._noting(self._producer.send_offsets, inputs, lanes, group_metadata)

    def commit(self) -> None:
        self._noting(self._producer.commit)
        self._end()

    def _noting(self, work: Any, *given: Any) -> None:
        try:
            work(*given)
        except BaseException as error:
            if self._span is not None:
                fail(self._span, error)
            self._end()
            raise

    def _end(self) -> None:
        if self._span is not None:
            self._span.end()
        self._span = None
