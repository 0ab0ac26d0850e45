"""The envelope: what is ours is read, what is not is refused with a reason."""

from pathlib import Path

import msgspec
import pytest

from shared.errors import Malformed
from shared.events import ATTRIBUTE_MAX, envelope

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
        ({"ce_specversion": b"0.3"}, "specversion"),
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
