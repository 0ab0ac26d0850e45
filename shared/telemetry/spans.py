"""One trace for each cause: from the request through the outbox and Kafka to every event that follows from it.

    POST /orders                               a request, and the root unless its caller sent a `traceparent`
      └ handle OrderPlaced        inventory    one event in its transaction, linked to its batch
          └ handle StockReserved  payment      its cause is the event before: the row of the outbox carries the context
              └ POST              payment      a call to a third party

A batch has as many parents as records, so it is a trace of its own, linked to them: `process order.events` while its
transaction lasts, and `send inventory.events` for a Kafka transaction. Names and attributes are those of the semantic
conventions for messaging, HTTP and databases (https://opentelemetry.io/docs/specs/semconv/). The span of a request is
FastAPI's own.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import trace_context

LINKS_MAX = 128
"""The SDK keeps no more links of a span by default (OTEL_SPAN_LINK_COUNT_LIMIT)."""

Attributes = Mapping[str, str | int]

_TRACE, _BAGGAGE = TraceContextTextMapPropagator(), W3CBaggagePropagator()


def context_of(text: str | None) -> Context:
    """Return the context in the text of a row or a record (`shared.trace_context`), with its baggage; an empty one if
    it is none, or not well formed.
    """
    found = dict(trace_context.of_text(text).headers())
    return _BAGGAGE.extract(found, _TRACE.extract(found, Context()))


def linked(texts: Iterable[str | None]) -> list[Link]:
    """Return a link to each of the first LINKS_MAX contexts that differ; batches of one cause have many alike."""
    links: list[Link] = []
    for text in dict.fromkeys(texts):
        if len(links) == LINKS_MAX:
            break
        found = get_current_span(context_of(text)).get_span_context()
        if found.is_valid:
            links.append(Link(found))
    return links


def text_of(span: Span, cause: str | None = None) -> str:
    """Return the context of what a span causes, as a text: its own, with the baggage of its `cause`."""
    found: SpanContext = span.get_span_context()
    parent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"
    state = trace_context.tracestate([found.trace_state.to_header().encode()])
    return trace_context.TraceContext(parent, state, trace_context.of_text(cause).baggage).text or parent


def current() -> str | None:
    """Return the context of the span that this one is in, such as a request's; None outside of any."""
    span = get_current_span()
    return text_of(span) if span.get_span_context().is_valid else None


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed, by the error or what caused it."""
    cause = error.__cause__ or error
    span.set_attribute("error.type", type(cause).__qualname__)
    span.record_exception(cause)
    span.set_status(Status(StatusCode.ERROR, f"{type(cause).__name__}: {cause}"))


class Traces:
    """Makes the spans of one process."""

    def __init__(self, tracer: Tracer, service: str, database: str) -> None:
        self.service = service
        self._tracer = tracer
        self._database = database
        self.current = current

    def root(self, name: str, kind: SpanKind, attributes: Attributes, links: Iterable[str | None] = ()) -> Span:
        """Start the span of a trace of its own."""
        return self._tracer.start_span(name, Context(), kind, dict(attributes), linked(links))

    def child(
        self, name: str, kind: SpanKind, attributes: Attributes, parent: str | None, link: Span | None = None
    ) -> Span:
        """Start a span in the context of `parent`, the text of a row or a record."""
        links = [Link(link.get_span_context())] if link is not None else None
        return self._tracer.start_span(name, context_of(parent), kind, dict(attributes), links)

    @contextmanager
    def commit(self, batch: Span) -> Iterator[None]:
        """The COMMIT of a transaction of the database, in the span of its batch."""
        attributes = {"db.system.name": "postgresql", "db.namespace": self._database, "db.operation.name": "COMMIT"}
        span = self.child(f"COMMIT {self._database}", SpanKind.CLIENT, attributes, text_of(batch))
        try:
            yield
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            span.end()


def of_batch(name: str, kind: str, topics: Iterable[str], messages: int) -> dict[str, Any]:
    """Return the attributes of a batch's span."""
    found = {
        "messaging.system": "kafka",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.batch.message_count": messages,
    }
    return found | ({"messaging.destination.name": topic} if (topic := only(topics)) else {})


def only(topics: Iterable[str]) -> str:
    """Return the topic, if there is only one; else an empty string."""
    found = set(topics)
    return found.pop() if len(found) == 1 else ""
