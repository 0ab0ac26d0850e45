"""The W3C trace context of a cause: what its request or record said in `traceparent`, `tracestate` and `baggage`.

It waits as one text, in the column `traceparent` of a row of the outbox, the schedule, the calls and the dead letters:

    00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
    tracestate: vendor=opaque
    baggage: tenant=eu-7,experiment=b

The first line is the traceparent, empty if there is none; the others are there if they hold something. So a row from
before this has the same form, and everything in between passes on one text that it does not read.

Nothing is refused for these headers: they serve observers, and an observer stops no request and no record. What is
malformed, or larger than W3C asks anybody to carry, is left out. What is kept is printable ASCII.

https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

STATE_CHARACTERS_MAX, STATE_MEMBERS_MAX = 512, 32
"""W3C asks for 512 characters of `tracestate` and allows 32 members; more is left out whole."""

BAGGAGE_BYTES_MAX, BAGGAGE_MEMBERS_MAX = 8_192, 64
"""W3C asks for these limits of `baggage`. A longer one is left out whole; of more members the first are kept."""

TEXT_MAX = 55 + len("\ntracestate: \nbaggage: ") + STATE_CHARACTERS_MAX + BAGGAGE_BYTES_MAX
"""Characters of the longest text."""

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_VENDOR = r"[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_STATE = re.compile(rf"({_VENDOR})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word, no secret
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_MEMBER = re.compile(rf"({_TOKEN})[ \t]*=[ \t]*{_VALUE}(?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*{_VALUE})?)*")

Keys = frozenset[str] | None
"""Names of the members of baggage that are taken; None: all of them."""


class TraceContext(NamedTuple):
    """The three headers; an empty one is not there."""

    traceparent: str = ""
    tracestate: str = ""
    baggage: str = ""

    @property
    def text(self) -> str | None:
        """The text as which it waits; None if there is nothing to say."""
        lines = [self.traceparent, *(f"{name}: {held}" for name, held in self.headers()[bool(self.traceparent) :])]
        return "\n".join(lines) or None

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that are there."""
        return [(name, held) for name, held in zip(self._fields, self, strict=True) if held]

    def without_baggage(self) -> Self:
        """Return what a third party gets: baggage is for one's own services."""
        return self._replace(baggage="")


_NAMES = frozenset(TraceContext._fields)


def of_text(text: str | None) -> TraceContext:
    """Read the text of a row."""
    parent, *lines = (text or "").split("\n")
    found = {name: held for name, _, held in (line.partition(": ") for line in lines)}
    return TraceContext(parent, found.get("tracestate", ""), found.get("baggage", ""))


def text_of_headers(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """Return the text for the headers of a record, of any content; quickly for those of most records."""
    found = [header for header in headers if header[0] in _NAMES]
    if len(found) == 1:
        name, held = found[0]
        if held is not None and name == "traceparent" and _PARENT.fullmatch(held):
            return held.decode()
    return of_headers(found).text if found else None


def of_headers(headers: Iterable[tuple[str, bytes | None]], keys: Keys = None) -> TraceContext:
    """Read the headers of a request or a record, of any content; of its baggage only the members in `keys`."""
    found: dict[str, list[bytes]] = {}
    for name, held in headers:
        if name in _NAMES:
            found.setdefault(name, []).append(held or b"")
    parent = _parent(found.get("traceparent", ()))
    if "\n" in parent:  # a worker of an earlier version, in a rolling upgrade: it copies the whole text
        copied = of_headers([(name, held.encode()) for name, held in of_text(parent).headers()])
        return copied if copied.text == parent else TraceContext()
    return TraceContext(
        parent,
        tracestate(found.get("tracestate", ())) if parent else "",  # as W3C requires
        _baggage(found.get("baggage", ()), keys),
    )


def _parent(given: Sequence[bytes]) -> str:
    if len(given) != 1 or len(given[0]) > TEXT_MAX:
        return ""
    return given[0].decode() if _PARENT.fullmatch(given[0]) or (b"\n" in given[0] and given[0].isascii()) else ""


def tracestate(given: Sequence[bytes]) -> str:
    """Return the `tracestate` of headers with this name, as it is carried; empty if it is not."""
    members = _members(given, STATE_CHARACTERS_MAX)
    matches = [_STATE.fullmatch(member) for member in members]
    keys = {match[1] for match in matches if match is not None}
    return ",".join(members) if len(keys) == len(members) <= STATE_MEMBERS_MAX else ""


def _baggage(given: Sequence[bytes], keys: Keys) -> str:
    matches = map(_MEMBER.fullmatch, _members(given, BAGGAGE_BYTES_MAX))
    kept = [match[0] for match in matches if match is not None and (keys is None or match[1] in keys)]
    return ",".join(kept[:BAGGAGE_MEMBERS_MAX])


def _members(given: Sequence[bytes], most: int) -> list[str]:
    """Return the members of a list that may come in several headers; none if they have more than `most` bytes."""
    if sum(map(len, given)) + len(given) - 1 > most:
        return []
    members = b",".join(given).decode("ascii", errors="replace").split(",")  # what is no ASCII matches no grammar
    return [stripped for member in members if (stripped := member.strip(" \t"))]


def headers_within(text: str, bytes_max: int) -> list[tuple[str, str]]:
    """Return the headers for the text of a row; the traceparent alone if all of it has more than `bytes_max`."""
    if "\n" not in text:
        return [("traceparent", text)]
    found = of_text(text)
    return (found if len(text) <= bytes_max else TraceContext(found.traceparent)).headers()


def named(text: str | None) -> dict[str, str | None]:
    """Return the facts of a row's text, for people; the traceparent is always one."""
    return {"traceparent": None, **dict(of_text(text).headers())}


def keys(given: str) -> Keys:
    """Read names of members of baggage, separated by commas; `*`: all. Raises `ValueError`, with what to write."""
    names = [name for part in given.split(",") if (name := part.strip())]
    if names == ["*"]:
        return None
    if wrong := [name for name in names if name == "*" or not re.fullmatch(_TOKEN, name)]:
        raise ValueError(
            f"{wrong[0][:100]!r} is not the name of a member of baggage; write names separated by commas, such as "
            "tenant,experiment, or `*` alone for all"
        )
    return frozenset(names)
