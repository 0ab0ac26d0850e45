"""Reading a record of any bytes returns an event, nothing, or one of two errors; the rest of it can be stored and is
bounded.

Hypothesis chooses the records, the same ones in every run; what it once found is among the examples.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dev.hostile.records import SHAPES, Target, record
from shared.errors import Malformed, Retry
from shared.events import ATTRIBUTE_MAX, VERSION_MAX, Event
from shared.kafka.consumer import NAMELESS
from shared.postgres.handlers import Handlers
from shared.protocol.ports import Input, Opened, Record
from shared.service import Service
from shared.telemetry.failures import DETAIL_MAX, describe
from shared.trace_context import TEXT_MAX, TraceContext

TOPIC = "things.events"


class Colour(Event, frozen=True, kw_only=True):
    """An event with a field of every kind; one refuses by itself."""

    topic: ClassVar[str] = TOPIC
    version: ClassVar[int] = 2

    name: str
    number: int = 0
    share: float = 0.0
    kind: Annotated[str, msgspec.Meta(pattern="^[a-z]*$", max_length=20)] = ""
    parts: list["Colour"] = []  # noqa: RUF012 - msgspec makes a new one each time
    more: dict[str, Any] = {}  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.name == "odd":
            raise KeyError(self.name)

    @property
    def key(self) -> str:
        """The name."""
        return self.name


SERVICE = Service("things")


@SERVICE.on(Colour)
def see(_: Colour) -> None:
    """Do nothing."""


HANDLERS = Handlers(SERVICE)

fields = st.sampled_from(["name", "number", "share", "kind", "parts", "more", "else"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
trees = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
# `json` writes what JSON has not: NaN, and half a pair of surrogates as an escape.
documents = st.dictionaries(fields, trees).map(lambda found: json.dumps(found).encode())
nested = st.builds(
    lambda opened, depth: b'{"name":"x","%s":%s}' % (b"more" if opened == b"{" else b"else", _nest(opened, depth)),
    st.sampled_from([b"[", b"{"]),
    st.integers(1, 5_000),
)


def _nest(opened: bytes, depth: int) -> bytes:
    return b"[" * depth + b"]" * depth if opened == b"[" else b'{"x":' * depth + b"1" + b"}" * depth


raw = st.none() | st.binary(max_size=50)
values = st.none() | st.binary() | documents | nested
names = (
    st.sampled_from(["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", *TraceContext._fields, NAMELESS, ""])
    | st.text()
)
kinds = st.builds(
    lambda name, version: f"{name}.v{version}".encode(errors="surrogatepass"),
    st.sampled_from(["Colour", "Sound", ""]) | st.text(st.characters()),
    st.integers() | st.text(),
)
ours = st.fixed_dictionaries(
    {},
    optional={
        "ce_specversion": st.just(b"1.0") | raw,
        "ce_id": st.binary(min_size=ATTRIBUTE_MAX - 2, max_size=ATTRIBUTE_MAX + 2) | raw,
        "ce_source": raw,
        "ce_type": kinds | raw,
    },
).map(lambda found: list(found.items()))
good = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"Colour.v2")]
headers = (
    st.none()
    | st.builds(lambda some, more: [*some, *more], st.just(good) | ours, st.lists(st.tuples(names, raw), max_size=5))
    | st.lists(st.tuples(names, raw))
)


def read(key: bytes | None, value: bytes | None, held: Any) -> Opened | None:
    """Read a record, and check the result."""
    try:
        found = HANDLERS.open(Record(Input(TOPIC, 0), 7, key, value, held))
    except Retry:
        return None
    except Malformed as error:
        if not storable(*describe(error)):
            raise
        return None
    if found is not None:
        envelope = found.envelope
        assert isinstance(found.event, Colour)
        assert envelope.version == Colour.version <= VERSION_MAX
        texts = [envelope.id, envelope.source, envelope.type, envelope.time]
        assert storable(*texts)
        assert all(len(text.encode()) <= ATTRIBUTE_MAX for text in texts)
        assert "\x00" not in envelope.key
        assert storable(envelope.traceparent or "", most=TEXT_MAX)
    return found


def storable(*texts: str, most: int = DETAIL_MAX) -> bool:
    """Check that PostgreSQL takes them, within their bounds."""
    return all("\x00" not in text and text.encode() is not None and len(text) <= most for text in texts)


@settings(derandomize=True, max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.none() | st.binary(max_size=50) | st.text().map(str.encode), values, headers)
@example(b"k", b'{"name":"odd"}', good)
@example(b"k", b'{"name":"x","note":' + b"[" * 1_000 + b"]" * 1_000 + b"}", good)
@example(b"k", b'{"name":"x","parts":' + b'[{"name":"x","parts":' * 2_000 + b"[]" + b"}]" * 2_000 + b"}", good)
@example(b"k", b'{"name":"x","more":{"' + b"k" * 900_000 + b'":' + b"9" * 5_000 + b"}}", good)
@example(b"k", b'{"name":"\xed\xa0\x80"}', good)
@example(b"k", b'{"name":"x"}', [*good, ("traceparent", b"0" * 1_000_000)])
@example(b"k", b'{"name":"x"}', [*good[:3], ("ce_type", b"Colour.v" + b"9" * 480)])
@example(b"k", b'{"name":"x"}', [("ce_specversion", b"\xff" * 1_000_000), *good[1:]])
def test_any_record_is_read_or_refused(key: bytes | None, value: bytes | None, held: Any) -> None:
    read(key, value, held)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_record_of_every_shape_of_the_hostile_producer_is_read_or_refused(shape: Callable[[Any], None]) -> None:
    random = Random(10)
    target = Target(TOPIC, "Colour.v2", {"name": "x", "number": 1}, "x")
    for n in range(5):
        made = record(random, target, str(n), shape)
        read(made.key, made.value, [(name.decode(errors="replace"), held) for name, held in made.headers])


def test_what_takes_effect_is_not_only_refused() -> None:
    found = read(b"k", b'{"name":"x","else":"\xff"}', [*good, (NAMELESS, b"\xff"), ("traceparent", b"\xff")])

    assert found is not None
    assert found.event.key == "x"


@pytest.mark.parametrize(
    ("version", "error"),
    [(0, Malformed), (1, Malformed), (3, Retry), (VERSION_MAX, Retry), (VERSION_MAX + 1, Malformed)],
)
def test_only_a_version_above_all_known_ones_waits(version: int, error: type[Exception]) -> None:
    held = [*good[:3], ("ce_type", f"Colour.v{version}".encode())]
    with pytest.raises(error):
        HANDLERS.open(Record(Input(TOPIC, 0), 0, b"k", b'{"name":"x"}', held))


class Mute(Exception):
    """An error whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error", [Mute(), ValueError("\x00\ud800" * 5_000_000), type("E" * 10_000, (Exception,), {})()]
)
def test_any_error_can_be_printed(error: Exception) -> None:
    assert storable(*describe(error))
