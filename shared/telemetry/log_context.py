"""The fields that identify the current event or request in every log line.

They are looked up when a line is written, so an event that logs nothing costs nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from .. import trace_context
from ..protocol.ports import Delivery

VALUE_MAX = 200
"""Characters logged of a key or an id, which may be longer."""

_facts: ContextVar[Callable[[], Mapping[str, object]] | None] = ContextVar("facts", default=None)


class bound:  # noqa: N801 - it is used like a function
    """Add `facts` to every line written until the block ends. It is a class because every event passes through it, and
    a generator costs three times as much.
    """

    __slots__ = ("_facts", "_token")

    def __init__(self, facts: Callable[[], Mapping[str, object]]) -> None:
        self._facts = facts

    def __enter__(self) -> None:
        self._token = _facts.set(self._facts)

    def __exit__(self, *_: object) -> None:
        _facts.reset(self._token)


def add(_logger: object, _method: str, line: Any) -> Any:
    """Add the facts to a line, as a structlog processor; the line's own fields win."""
    facts = _facts.get()
    return line if facts is None else {**facts(), **line}


def of_delivery(delivery: Delivery) -> Mapping[str, object]:
    """Return the fields of an event and its record."""
    found = delivery.envelope
    return {
        "event_id": found.id[:VALUE_MAX],
        "event_type": f"{found.type[:VALUE_MAX]}.v{found.version}",
        "key": found.key[:VALUE_MAX],
        "topic": delivery.record.input.topic,
        "partition": delivery.record.input.partition,
        "offset": delivery.record.offset,
        **trace(found.traceparent),
    }


def of_batch(deliveries: Sequence[Delivery], handler: str) -> Mapping[str, object]:
    """Return the fields of a batch handler's call: those of its event if that is alone, else what all share."""
    first = deliveries[0].envelope
    if len(deliveries) == 1:
        return {"handler": handler, **of_delivery(deliveries[0])}
    return {
        "handler": handler,
        "events": len(deliveries),
        "event_type": f"{first.type[:VALUE_MAX]}.v{first.version}",
        "topic": deliveries[0].record.input.topic,
    }


def trace(context: str | None) -> Mapping[str, object]:
    """Return the trace id in the text of a trace context. Its baggage is no part of any log line."""
    parts = trace_context.of_text(context).traceparent.split("-")  # version, trace id, span id, flags
    return {"trace_id": parts[1]} if len(parts) >= 4 else {}
