"""A valid envelope is read; any other is refused with a reason."""

from pathlib import Path

import msgspec
import pytest

from shared.errors import Malformed
from shared.events import ATTRIBUTE_MAX, OURS, Event, EventType, envelope
from shared.kafka.consumer import NAMELESS

GOOD: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"order:1",
    "ce_source": b"order",
    "ce_type": b"OrderPlaced.v1",
    "ce_time": b"2026-11-21T12:00:00Z",
    "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_the_example_of_the_page_is_read() -> None:
    lines = [line.split(maxsplit=1) for line in PAGE.split("```")[1].splitlines()[1:]]
    told = {name: text for name, text in lines if name != "header"}
    headers = [text.split(": ", 1) for name, text in lines if name == "header"]

    found = envelope(told["key"].encode(), told["value"].encode(), [(name, text.encode()) for name, text in headers])

    assert (found.source, found.type, found.version) == ("order", "OrderPlaced", 1)
    assert msgspec.json.decode(found.data)["order_id"] == found.key


def test_an_event_is_read() -> None:
    found = envelope(b"key", b"{}", list(GOOD.items()))

    assert (found.id, found.source, found.type, found.version, found.key) == (
        "order:1",
        "order",
        "OrderPlaced",
        1,
        "key",
    )
    assert found.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert found.data == b"{}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ce_id": None}, "ce_id"),
        ({"ce_source": b""}, "ce_source"),
        ({"ce_type": b"OrderPlaced"}, "Name.v1"),
        ({"ce_type": b".v1"}, "Name.v1"),
        ({"ce_type": b"OrderPlaced.v1.5"}, "Name.v1"),
        ({"ce_type": b"OrderPlaced.v-1"}, "Name.v1"),
        ({"ce_type": b"OrderPlaced.v01"}, "Name.v1"),
        ({"ce_type": "OrderPlaced.v\u0661".encode()}, "Name.v1"),
        ({"ce_type": b"OrderPlaced.v32768"}, "Name.v1"),
        ({"ce_type": b"OrderPlaced.v" + b"9" * 480}, "Name.v1"),
        ({"ce_specversion": b"0.3"}, "specversion"),
        ({"ce_specversion": b"x" * (ATTRIBUTE_MAX + 1)}, "longer"),
        ({"ce_time": b"x" * (ATTRIBUTE_MAX + 1)}, "longer"),
        ({"ce_time": b"\xff"}, "UTF-8"),
        ({"ce_id": "\u20ac".encode() * 200}, "longer"),
        ({"ce_id": b"\xff"}, "UTF-8"),
        ({"ce_id": b"a\x00b"}, "NUL"),
        ({"ce_id": b"x" * (ATTRIBUTE_MAX + 1)}, "longer"),
    ],
)
def test_a_wrong_header_is_named(change: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        envelope(b"key", b"{}", list((GOOD | change).items()))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, b"{}", "no key"),
        (b"", b"{}", "no key"),
        (b"key", None, "tombstone"),
        (b"\xff", b"{}", "UTF-8"),
        (b"\x00", b"{}", "NUL"),
    ],
)
def test_a_wrong_key_or_value_is_named(key: bytes | None, value: bytes | None, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        envelope(key, value, list(GOOD.items()))


def test_a_record_without_headers_is_named() -> None:
    with pytest.raises(Malformed, match="ce_id, ce_source, ce_type"):
        envelope(b"key", b"{}", None)


@pytest.mark.parametrize("name", OURS)
def test_a_header_of_ours_that_is_there_twice_is_named(name: str) -> None:
    with pytest.raises(Malformed, match=f"{name} is there twice"):
        envelope(b"key", b"{}", [*GOOD.items(), (name, GOOD[name])])


def test_headers_of_others_are_not_looked_at() -> None:
    """A tracer's context is binary, and unused headers need not be valid."""
    others = [("dd-pathway-ctx", b"\x94\xff\x00"), ("", b"x" * 100_000), ("x", None), ("x", b"\x00"), (NAMELESS, b"")]

    found = envelope(b"key", b"{}", [*others, *GOOD.items(), *others])

    assert found == envelope(b"key", b"{}", list(GOOD.items()))


@pytest.mark.parametrize(
    "given",
    [
        [None],
        [b""],
        [b"\xff"],
        [b"x" * 1_000_000],
        [b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"],
        [b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01"],
        [b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        [b"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"],
        [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n"],
        [GOOD["traceparent"], GOOD["traceparent"]],
    ],
)
def test_a_traceparent_in_another_form_is_left_out(given: list[bytes | None]) -> None:
    others = [(name, raw) for name, raw in GOOD.items() if name != "traceparent"]

    found = envelope(b"key", b"{}", [*others, *(("traceparent", raw) for raw in given)])

    assert (found.traceparent, found.id) == (None, "order:1")


@pytest.mark.parametrize("field", ["topic", "version", "key_fields"])
def test_a_field_with_the_name_of_a_class_argument_is_refused(field: str) -> None:
    """The worker would read the field's descriptor, and set every good record aside or route none."""
    why = rf'Sent has a field `{field}`.*: rename it.*`own_{field}: .* = msgspec.field\(name="{field}"\)`'
    for arguments in ({"topic": "t"}, {"topic": "t", "version": 2}, {}):
        with pytest.raises(TypeError, match=why):
            EventType("Sent", (Event,), {"__annotations__": {field: str}}, **arguments)
        with pytest.raises(TypeError, match=why):
            EventType("Sent", (Event,), {"__annotations__": {field: int}, field: 1}, **arguments)


def test_a_field_beside_the_key_that_takes_its_place_is_refused() -> None:
    class Keyed(Event, key="id"):
        id: str

    for bases, key in (((Event,), "id"), ((Keyed,), None), ((Event,), "key")):
        with pytest.raises(TypeError, match=r"Sent has a field `key`, .*`own_key: .* = msgspec.field\(name=\"key\"\)`"):
            EventType("Sent", bases, {"__annotations__": {"id": str, "key": str}}, key=key)


def test_fields_that_are_renamed_keep_their_names_in_the_json() -> None:
    class Sent(Event, topic="t", key="id", version=3):
        id: str
        own_version: int = msgspec.field(name="version", default=1)
        own_key: str = msgspec.field(name="key")

    sent = Sent(id="a", own_key="k")
    assert (sent.key, sent.version, sent.topic) == ("a", 3, "t")
    assert msgspec.json.encode(sent) == b'{"id":"a","version":1,"key":"k"}'


def test_a_field_may_be_the_key_itself() -> None:
    class Set(Event, topic="t"):
        key: str

    assert Set(key="k").key == "k"
