"""Values of others on a page: in full as far as that makes sense, and with nothing in them that a terminal would obey.

HTML is escaped by the templates. What is not printable is spelled out: the text may be copied into a terminal.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..operations import editing
from ..operations.dead_letters import Beginning, readable
from ..operations.output import printable

VALUE_BYTES_MAX = 100_000
"""Of a value, a key, or all headers: as much as somebody reads. The command shows all."""
LINES_MAX = 5_000
"""A value of 100,000 brackets would become as many lines."""
HEADERS_MAX = 200


class Shown(NamedTuple):
    """A value as text."""

    text: str
    form: str
    """What it was taken for."""
    cut: bool


def value(data: bytes | None, size: int) -> Shown:
    """Spell a value of `size` bytes, of which `data` is the beginning: JSON in lines, or text, or hexadecimal."""
    if data is None:
        return Shown("", "none", cut=False)
    if len(data) < size:
        return Shown(lines(data.decode(errors="backslashreplace")), "the beginning", cut=True)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Shown(data.hex(), "bytes, in hexadecimal", cut=False)
    spelled = editing.pretty(data) if data[:1] in (b"{", b"[") else None
    if spelled is None:
        return Shown(lines(text), "text", cut=False)
    return Shown(lines(text) if spelled.count("\n") > LINES_MAX else spelled, "JSON", cut=False)


class Editable(NamedTuple):
    """A value as a page offers it to be edited."""

    text: str
    why_not: str
    """Empty if it can be edited on a page."""


def editable(data: bytes | None, size: int) -> Editable:
    """Write a value so that a form brings back every byte that nobody touched; JSON may get other white space."""
    if data is None:
        return Editable("", "It has no value.")
    if size > VALUE_BYTES_MAX:
        return Editable("", f"Its value has {size:,} bytes, and a page edits up to {VALUE_BYTES_MAX:,}.")
    if (text := editing.faithful(data)) is None:
        return Editable("", "Its value is neither JSON nor text that a form brings back as it is.")
    return Editable(text, "")


def changes(before: bytes | None, after: bytes) -> list[tuple[str, str, str]]:
    """Return the lines that an edit changes, with some around them."""
    return differing(editing.difference(editing.shown(before), editing.shown(after)))


def differing(found: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return the lines of a difference, each with what it is in words: colour and a sign say it to eyes alone."""
    words = {"-": "goes", "+": "comes", " ": "stays", "…": "left out"}
    return [(sign, words[sign], line) for sign, line in found]


def lines(text: str) -> str:
    """Return text whose only unprintable characters are the ends of its lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def headers(found: Beginning) -> list[tuple[str, str]]:
    """Return names and values of a record's headers."""
    pairs = list(found.letter.record.headers or ())[:HEADERS_MAX]
    return [(printable(name), _one_line(readable(held))) for name, held in pairs]


def _one_line(held: Any) -> str:
    if held is None:
        return "none"
    return printable(held if isinstance(held, str) else json.dumps(held, ensure_ascii=False))
