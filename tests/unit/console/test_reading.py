"""Values of others: any bytes are shown, and none does anything."""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.console import application, pages, reading
from shared.operations.dead_letters import Beginning
from shared.postgres.dead_letters import DeadLetter
from shared.protocol.ports import Input, Record
from tests.unit.console.desk import Desk

DEEP = b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize(
    ("data", "form", "text"),
    [
        (None, "none", ""),
        (b"", "text", ""),
        (b'{"a": [1, "\xc3\xa9"]}', "JSON", '{\n  "a": [\n    1,\n    "é"\n  ]\n}'),
        (b"12", "text", "12"),
        (b"\xff\x00", "bytes, in hexadecimal", "ff00"),
        (b'{"hex": "ff"}', "JSON", '{\n  "hex": "ff"\n}'),
        (b"a\x1b[31mb\r\nc\xe2\x80\xae", "text", "a\\x1b[31mb\\r\nc\\u202e"),
        (b'{"a": "\\u001b[2J<script>"}', "JSON", '{\n  "a": "\\u001b[2J<script>"\n}'),
        (b'{"a": NaN}', "text", '{"a": NaN}'),
        (DEEP, "text", DEEP.decode()),
    ],
)
def test_a_value_is_spelled(data: bytes | None, form: str, text: str) -> None:
    shown = reading.value(data, len(data or b""))

    assert (shown.form, shown.text, shown.cut) == (form, text, False)


def test_what_is_cut_is_not_taken_for_json() -> None:
    whole = json.dumps(["é" * 50] * 5).encode()
    shown = reading.value(whole[:41], len(whole))

    assert shown.cut
    assert shown.form == "the beginning"
    assert shown.text == whole[:41].decode(errors="backslashreplace")


def test_a_value_of_too_many_lines_stays_as_it_is() -> None:
    many = json.dumps([0] * 10_000).encode()

    assert reading.value(many, len(many)).text == many.decode()


def page_of(monkeypatch: pytest.MonkeyPatch, key: bytes | None, value: bytes | None) -> str:
    """Return the page of a dead letter that has these."""
    desk = Desk()
    record = Record(Input("store.events", 0), 5, key, value, [])
    letter = DeadLetter(1, record, 0, "Reject", "no", None, datetime.now(UTC), None, None, None, None)
    beginning = Beginning(letter, len(key or b""), len(value or b""), 0, reading.VALUE_BYTES_MAX)

    async def found(*_: object) -> Any:
        return desk.sight().known, beginning, None

    monkeypatch.setattr(application, "_found", found)
    return desk.browser.get("/dead-letters/shop/1").text


def test_a_value_is_spelled_aside_so_that_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[threading.Thread] = set()

    def noted(work: Any) -> Any:
        def run(*given: Any) -> Any:
            threads.add(threading.current_thread())
            return work(*given)

        return run

    monkeypatch.setattr(reading, "value", noted(reading.value))
    monkeypatch.setattr(pages, "render", noted(pages.render))

    assert "Dead letter 1" in page_of(monkeypatch, b"k", b"{}")
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (b"\xff\x00\xfe", "3 bytes, bytes, in hexadecimal"),
        (b"ff00fe", "6 bytes, text"),
        (None, "none"),
        (b"", "0 bytes"),
    ],
)
def test_a_page_says_what_a_key_and_a_value_are(monkeypatch: pytest.MonkeyPatch, key: bytes | None, told: str) -> None:
    page = page_of(monkeypatch, key, key)

    for part in ("Key", "Value"):
        assert f'<h2>{part} <span class="muted">{told}' in page
