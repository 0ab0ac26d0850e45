"""What is said: events, and the envelope that carries them over Kafka.

The envelope uses the names of CloudEvents 1.0 in its Kafka binding, binary mode
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md): the attributes are
headers, the value is the event alone. The key of the record is the key of the aggregate, so that the events of one
aggregate stay in order.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from shared.errors import Malformed

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
ATTRIBUTE_MAX = 500
"""An id and a source longer than this do not fit the inbox's index; ours have some 60 characters."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. A subclass is one type of event; its fields are the JSON on the topic.

    Fields that a newer producer adds are ignored by an older consumer; any other change is a new `version`.
    """

    topic: ClassVar[str]
    """The topic that carries this type."""
    version: ClassVar[int] = 1

    @property
    def key(self) -> str:
        """The key of the aggregate whose change this event tells; never empty."""
        raise NotImplementedError


class Envelope(msgspec.Struct, frozen=True):
    """An event on its way: the attributes of its headers, its key, and its value as bytes of JSON."""

    id: str
    """Made from the cause, so that handling the cause again makes the same id."""
    source: str
    """The name of the service that says it. `source` and `id` together are unique."""
    type: str
    """The name of the event's class."""
    version: int
    time: str
    """When the database of the source decided it; RFC 3339."""
    key: str
    data: bytes
    traceparent: str | None = None
    """W3C trace context of the cause (https://www.w3.org/TR/trace-context/)."""


def envelope(
    key: bytes | None, value: bytes | None, record_headers: Sequence[tuple[str, bytes | None]] | None
) -> Envelope:
    """Read the envelope of a Kafka record; the value stays as it is.

    Raises `Malformed` for a record that is not in our form: no key, a tombstone, headers missing or not UTF-8.
    """
    if value is None:
        raise Malformed("the record has no value (a tombstone); an event always has one")
    if not key:
        raise Malformed("the record has no key; the key of an event is the key of its aggregate")
    try:
        found = {name: raw.decode() for name, raw in record_headers or () if raw is not None}
        text_key = key.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"a header or the key is not UTF-8: {error}") from error
    if any("\x00" in value for value in (text_key, *found.values())):
        raise Malformed("a header or the key holds a NUL character, which PostgreSQL cannot store")
    if any(len(found.get(name, "")) > ATTRIBUTE_MAX for name in ("ce_id", "ce_source", "ce_type")):
        raise Malformed(f"ce_id, ce_source or ce_type is longer than {ATTRIBUTE_MAX} characters")
    missing = [name for name in ("ce_id", "ce_source", "ce_type") if not found.get(name)]
    if missing:
        raise Malformed(f"the record lacks the headers {', '.join(missing)}; it is not a CloudEvent in binary mode")
    if found.get("ce_specversion") != SPEC_VERSION:
        raise Malformed(f"ce_specversion is {found.get('ce_specversion')!r}, not '1.0'")
    name, _, version = found["ce_type"].rpartition(".v")
    if not name or not version.isdecimal():
        raise Malformed(f"ce_type is {found['ce_type']!r}, not of the form Name.v1")
    return Envelope(
        id=found["ce_id"],
        source=found["ce_source"],
        type=name,
        version=int(version),
        time=found.get("ce_time", ""),
        key=text_key,
        data=value,
        traceparent=found.get("traceparent"),
    )
