"""Values of others: any bytes are shown, and none does anything."""

import json

import pytest

from shared.console import reading

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
