"""Values of others on a page: in full as far as that makes sense, and with nothing in them that a terminal would obey.

HTML is escaped by the templates. What is not printable is spelled out: the text may be copied into a terminal.
"""

import json
from typing import Any, NamedTuple

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
    found = readable(data)
    if isinstance(found, str):
        return Shown(lines(found), "text", cut=False)
    if isinstance(found, dict) and set(found) == {"hex"} and data[:1] != b"{":
        return Shown(found["hex"], "bytes, in hexadecimal", cut=False)
    spelled = json.dumps(found, indent=2, ensure_ascii=False)
    if spelled.count("\n") > LINES_MAX:
        return Shown(lines(data.decode(errors="backslashreplace")), "JSON", cut=False)
    return Shown(lines(spelled), "JSON", cut=False)


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
