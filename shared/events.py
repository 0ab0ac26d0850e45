"""Events, and the envelope that carries them over Kafka.

The envelope uses the names of CloudEvents 1.0 in its Kafka binding, binary mode
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md): the attributes are
headers, the value is the event alone. The key of the record is the key of the aggregate, so that the events of one
aggregate stay in order.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, dataclass_transform

import msgspec

from . import trace_context
from .errors import Malformed

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
ATTRIBUTE_MAX = 500
"""Maximum bytes of one of our headers. A longer id and source do not fit the inbox's index; ours have some 60."""

OURS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time")
"""The headers that are read. All others belong to other tools, such as a tracer's context."""

VERSION_MAX = 32_767
"""The outbox stores a version in two bytes."""

_ARGUMENTS = ("topic", "version", "key_fields")

_TYPE = re.compile(r"(.+)\.v(0|[1-9][0-9]{0,4})", re.DOTALL)


class EventType(msgspec.StructMeta):
    """Reads the class arguments of an event."""

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        topic: str | None = None,
        key: str | tuple[str, ...] | None = None,
        version: int | None = None,
        **config: Any,
    ) -> "EventType":
        given = {"topic": topic, "version": version}
        namespace |= {argument: value for argument, value in given.items() if value is not None}
        fields = (key,) if isinstance(key, str) else key
        if fields is not None:
            namespace |= {"key": _key_property(fields), "key_fields": fields}
        made = super().__new__(mcs, name, bases, namespace, **{"frozen": True, "kw_only": True, **config})
        if unknown := [field for field in fields or () if field not in made.__struct_fields__]:
            raise TypeError(
                f"{name}: key={key!r}, and it has no field {', '.join(unknown)}; it has "
                f"{', '.join(made.__struct_fields__)}"
            )
        for field in made.__struct_fields__:
            if field in _ARGUMENTS or (field == "key" and made.key_fields):  # type: ignore[attr-defined]
                raise TypeError(
                    f"{name} has a field `{field}`, which takes the place of the class argument `{field}=`: rename it, "
                    f'and keep its name in the JSON: `own_{field}: ... = msgspec.field(name="{field}")`'
                )
        return made


def _key_property(fields: tuple[str, ...]) -> property:
    """Return the property that makes an event's key from its `fields`, as the session makes a row's."""
    if len(fields) == 1:
        (name,) = fields
        return property(lambda event: str(getattr(event, name)))
    return property(lambda event: key_of(*(getattr(event, name) for name in fields)))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, kw_only=True, metaclass=EventType):
    """One thing that happened. A subclass is one type of event; its fields are the JSON on the topic.

        class OrderEvent(Event, key="order_id"):
            order_id: Id

        class StockReserved(OrderEvent, topic="inventory.events"):
            amount: Money

    Class arguments, which subclasses inherit: `topic` carries this type; `key` names the field, or the fields, that
    find the aggregate whose change this event reports; `version` counts from 1. Fields that a newer producer adds are
    ignored by an older consumer; any other change is a new `version`.
    """

    topic: ClassVar[str]
    version: ClassVar[int] = 1
    key_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> str:
        """The key of the aggregate whose change this event reports; never empty."""
        raise NotImplementedError(f'{type(self).__name__} has no key: give its class `key="..."`, the name of a field')


class Envelope(msgspec.Struct, frozen=True):
    """An event on its way: the attributes of its headers, its key, and its value as bytes of JSON."""

    id: str
    """Derived from the cause, so that handling the cause again yields the same id."""
    source: str
    """The name of the service that publishes it. `source` and `id` together are unique."""
    type: str
    """The name of the event's class."""
    version: int
    time: str
    """When the source's database recorded it; RFC 3339."""
    key: str
    data: bytes
    traceparent: str | None = None
    """The trace context of the cause, with `tracestate` and `baggage` (`shared.trace_context`)."""


_ENCODER = msgspec.json.Encoder()


@cache
def _decoder(kind: type[Event]) -> msgspec.json.Decoder[Event]:
    return msgspec.json.Decoder(kind)


def encoded(event: Event) -> bytes:
    """Return the JSON of `event`. Raises `ValueError` if its own type refuses it: no consumer could read it.

    msgspec checks what it decodes, not what is constructed
    (https://jcristharif.com/msgspec/structs.html#type-validation).
    """
    data = _ENCODER.encode(event)
    try:
        _decoder(type(event)).decode(data)
    except msgspec.ValidationError as error:
        raise ValueError(f"{type(event).__name__} is not what its own type declares: {error}") from error
    return data


def envelope(
    key: bytes | None, value: bytes | None, record_headers: Sequence[tuple[str, bytes | None]] | None
) -> Envelope:
    """Read the envelope of a Kafka record; the value is not parsed. Foreign headers are ignored.

    Raises `Malformed` for a record that is not in our form: no key, a tombstone, or a header of ours that is missing,
    duplicated, or not text. What is wrong with its trace context is dropped: a trace is no reason to stop an event.
    """
    if value is None:
        raise Malformed("the record has no value (a tombstone); an event always has one")
    if not key:
        raise Malformed("the record has no key; the key of an event is the key of its aggregate")
    text_key = _text("the key", key)
    found = {name: _text(name, raw) for name, raw in _ours(record_headers or ()).items() if raw is not None}
    missing = [name for name in ("ce_id", "ce_source", "ce_type") if not found.get(name)]
    if missing:
        raise Malformed(f"the record lacks the headers {', '.join(missing)}; it is not a CloudEvent in binary mode")
    if found.get("ce_specversion") != SPEC_VERSION:
        raise Malformed(f"ce_specversion is {found.get('ce_specversion')!r}, not '1.0'")
    kind = _TYPE.fullmatch(found["ce_type"])
    if kind is None or int(kind[2]) > VERSION_MAX:
        raise Malformed(f"ce_type is {found['ce_type']!r}, not of the form Name.v1")
    return Envelope(
        id=found["ce_id"],
        source=found["ce_source"],
        type=kind[1],
        version=int(kind[2]),
        time=found.get("ce_time", ""),
        key=text_key,
        data=value,
        traceparent=trace_context.text_of_headers(record_headers or ()),
    )


def _ours(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for name, raw in headers:
        if name not in OURS:
            continue
        if name in found:
            raise Malformed(f"the header {name} is there twice")
        if raw is not None and len(raw) > ATTRIBUTE_MAX:
            raise Malformed(f"{name} is longer than {ATTRIBUTE_MAX} bytes")
        found[name] = raw
    return found


def _text(name: str, raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"{name} is not UTF-8: {error}") from error
    if "\x00" in text:
        raise Malformed(f"{name} holds a NUL character, which PostgreSQL cannot store")
    return text


def key_of(*parts: object) -> str:
    """Return the key of an aggregate with several key columns: their values, in the order of the primary key.

    `key_of("eu", 7)` is `eu:7`. Keys are unique: a `:` in a value is written `%3A`.
    """
    return ":".join(str(part).replace("%", "%25").replace(":", "%3A") for part in parts)
