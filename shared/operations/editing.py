"""`dead-letters edit`: correct the value of a record that was set aside.

The edit is a decision and nothing else: a row of `exactly_once_decision`, which a service may neither change nor
delete. The dead letter keeps the value that came from Kafka. `redrive` handles the newest edit in its place, under the
same key, headers and event id, so that it takes effect once, edited or not.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from difflib import SequenceMatcher
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from ..errors import CommandFailed, Malformed, Retry
from ..events import Envelope, Event, envelope
from ..postgres import dead_letters
from ..postgres.dead_letters import DeadLetter
from ..postgres.handlers import Handlers
from ..protocol.ports import Record
from . import maintenance
from .maintenance import Context
from .output import echo, printable

COMMAND = "dead-letters edit"
KEPT_CHARACTERS = 2_000
"""Of the value before and of the key, in the decision: enough to see what was meant. The dead letter has all of it."""
WHOLE = 2**30
"""Characters of a value: all."""
COMPARED_LINES_MAX = 1_000
"""Lines between the first and the last difference that are compared one by one: the time grows with their square."""
CONTEXT_LINES = 3
SHOWN_LINES_MAX = 400
"""Lines of a difference: more than anyone reads before a confirmation."""
LINE_MAX = 240
"""Characters of a line in a difference; a longer one is folded."""
FOLDS_MAX = 20
"""Lines that one long line becomes. What is beyond is told by its length and its hash, so that no two look the same."""
AROUND = 60
"""Characters of a long line that are shown before what changes in it, and after."""
INDENTED_MAX = 8
"""White space that shows the levels of JSON, for each byte of it. A value of 100 kB, 900 levels deep, would take 90 MB;
its lines are not indented.
"""
INDENTED_ANYWAY = 10_000

_NEWEST = text("""
    SELECT id, decided_at, after ->> 'by', after ->> 'reason', left(after ->> 'value', :most),
           CAST(after ->> 'bytes' AS bigint)
    FROM exactly_once_decision WHERE command = :command AND source = :source ORDER BY id DESC LIMIT 1
""")
_EDITED = text("""
    SELECT source, max(id) FROM exactly_once_decision WHERE command = :command AND source = ANY(:sources)
    GROUP BY source
""")


class Edit(NamedTuple):
    """The newest edit of a dead letter."""

    decision: int
    decided_at: datetime
    by: str | None
    reason: str
    value: bytes
    """Its beginning, if not all was asked for."""
    size: int

    def __str__(self) -> str:
        by = f" of {self.by}" if self.by else ""
        return f"decision {self.decision}{by}"


def newest(connection: Connection, number: int, characters: int = WHOLE) -> Edit | None:
    """Return the newest edit of a dead letter, with so many characters of its value."""
    asked = {"command": COMMAND, "source": _source(number), "most": characters}
    row = connection.execute(_NEWEST, asked).one_or_none()
    if row is None:
        return None
    decision, decided_at, by, reason, value, size = row
    return Edit(decision, decided_at, by, reason, value.encode(), size)


def decisions(connection: Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Return the number of the newest edit of each of these dead letters that has one."""
    sources = {_source(number): number for number in numbers}
    asked = {"command": COMMAND, "sources": list(sources)}
    return {sources[source]: decision for source, decision in connection.execute(_EDITED, asked)}


def with_edit(connection: Connection, letter: DeadLetter) -> tuple[DeadLetter, Edit | None]:
    """Return a dead letter as its newest edit has it. The caller has locked it, so that no edit comes between."""
    found = newest(connection, letter.id)
    return (letter if found is None else _edited(letter, found.value)), found


def _edited(letter: DeadLetter, value: bytes | None) -> DeadLetter:
    return letter._replace(record=letter.record._replace(value=value))


def _source(number: int) -> str:
    return f"dead letter {number}"


def edit(context: Context, number: int, *, file: str, reason: str, force: bool, yes: bool) -> None:
    """Keep the content of a file (`-`: of standard input) as the value of a dead letter. Raises `CommandFailed`."""
    value = _read(file, context.settings.event_bytes_max)
    with context.engine.begin() as connection:
        letter, before = with_edit(connection, waiting(connection, number))
    found = refusal(context, letter, value)
    if found and not force:
        raise CommandFailed(f"{found}. --force keeps it nevertheless")
    for sign, line in difference(shown(letter.record.value), shown(value)):
        echo(f"{sign} {line}")
    if found:
        echo(f"{found}; it is kept because of --force")
    maintenance.confirm(f"edit dead letter {number}?", yes=yes)
    keep(context, number, value, reason=reason, force=force, base=before.decision if before else 0)
    echo(f"{context.command(f'dead-letters redrive {number}')} handles it")


def keep(context: Context, number: int, value: bytes, *, reason: str, force: bool, base: int) -> None:
    """Record an edit that was made on the basis of edit `base`; 0: of the original. Raises `CommandFailed`."""
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why this record may be changed")
    if len(value) > context.settings.event_bytes_max:
        raise CommandFailed(_too_large(context.settings.event_bytes_max))
    with context.engine.begin() as connection:
        original = waiting(connection, number, lock=True)
        letter, before = with_edit(connection, original)
        if (before.decision if before else 0) != base:
            told = f"by {before}" if before else "back to what it was"
            raise CommandFailed(f"dead letter {number} was edited meanwhile, {told}: look at it again")
        if shown(value) == shown(letter.record.value):
            raise CommandFailed(f"this is the value that dead letter {number} has: there is nothing to change")
        found = refusal(context, letter, value)
        if found and not force:
            raise CommandFailed(f"{found}. It was not kept")
        text = _text(minified(value))
        old = letter.record.value
        decision = maintenance.decided(
            connection,
            COMMAND,
            _source(number),
            {
                "id": number,
                "event_id": original.event_id and printable(original.event_id[:KEPT_CHARACTERS]),
                "key": _beginning(original.record.key),
                **_facts(old),
                "value": _beginning(old),
            },
            {
                "reason": reason,
                **_facts(text.encode()),
                "value": text,
                **({"unreadable": printable(found[:KEPT_CHARACTERS])} if found else {}),
            },
        )
    echo(f"dead letter {number} is edited by decision {decision}")


def _facts(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {}
    return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}


def _beginning(data: bytes | None) -> str | None:
    """Return what a decision keeps of bytes that others have written; jsonb takes neither NUL nor lone surrogates."""
    return None if data is None else printable(data[:KEPT_CHARACTERS].decode(errors="backslashreplace"))


def waiting(connection: Connection, number: int, *, lock: bool = False) -> DeadLetter:
    """Return a dead letter that waits. Raises `CommandFailed`."""
    found = dead_letters.find(connection, number, lock=lock)
    if found is None:
        raise CommandFailed(f"there is no dead letter {number}")
    if found.redriven_at is not None:
        raise CommandFailed(f"dead letter {number} was re-driven at {found.redriven_at:%Y-%m-%d %H:%M:%S}")
    if found.dismissed_at is not None:
        raise CommandFailed(f"dead letter {number} was dismissed by decision {found.dismissed_by}")
    return found


def _read(file: str, most: int) -> bytes:
    try:
        if file == "-":
            found = sys.stdin.buffer.read(most + 1)
        else:
            with Path(file).open("rb") as opened:
                found = opened.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandFailed(f"--value {file[:200]}: {reason}") from error
    if len(found) > most:
        raise CommandFailed(_too_large(most))
    return found


def _too_large(most: int) -> str:
    return f"the value has more than EVENT_BYTES_MAX, {most:,} bytes"


def _text(value: bytes) -> str:
    """Return a value as text, which a decision can hold. Raises `CommandFailed`."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise CommandFailed(f"the value is not UTF-8: {error}") from error
    if "\x00" in text:
        raise CommandFailed("the value holds a NUL character, which PostgreSQL cannot store")
    return text


# ---- whether it can be handled


def refusal(context: Context, letter: DeadLetter, value: bytes) -> str:
    """Return why a redrive would fail before any handler sees the event; empty if it would not."""
    event, why = _opened(context, letter.record._replace(value=value))
    if event is None:
        return why
    key, expected = _key(event), (letter.record.key or b"").decode(errors="replace")
    old, _ = _opened(context, letter.record)
    if key != expected and (old is None or _key(old) == expected):
        return (
            f"the event would be about {printable(key[:200])!r}, and the key of its record is "
            f"{printable(expected[:200])!r}: it would not be in order with the others of either"
        )
    return ""


def _opened(context: Context, record: Record) -> tuple[Event | None, str]:
    """Decode a record as its handlers would get it, or as it would be published."""
    service = context.service
    try:
        if record.input.topic != service.lane_topic:
            found = Handlers(service).open(record)
            return (found.event, "") if found else (None, "this service does not consume events of its type")
        told = envelope(record.key, record.value, record.headers)
        kinds = [kind for kind in service.publishes if (kind.__name__, kind.version) == (told.type, told.version)]
        return (msgspec.json.decode(told.data, type=kinds[0]), "") if kinds else (None, _unpublished(told))
    except (Malformed, Retry) as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - raised by an event's own type, or too deep
        return None, f"it cannot be read: {error}"


def _unpublished(told: Envelope) -> str:
    return f"this service does not publish {told.type}.v{told.version}"


def _key(event: Event) -> str:
    try:
        return str(event.key)
    except Exception as error:  # noqa: BLE001 - a property of the service's
        return f"none: {error}"


# ---- how it is shown


def pretty(value: bytes) -> str | None:
    """Write JSON in lines; None for what is no JSON. Every token stays as it is: also a number that Python would round,
    and a name that is there twice. What is not printable is escaped.
    """
    try:
        dense = msgspec.json.format(value.decode(), indent=-1)
        if is_sprawling(dense):
            return _escaped(_TOKEN.sub(_on_its_line, dense))
        return _escaped(msgspec.json.format(dense, indent=2))
    except (ValueError, RecursionError):
        return None


_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TOKEN = re.compile(rf"{_STRING.pattern}|[\[{{,]|[\]}}]", re.DOTALL)


def is_sprawling(json: str) -> bool:
    """Whether JSON would be mostly indentation. It has to be JSON: the strings of anything else may have no end."""
    most = max(INDENTED_MAX * len(json), INDENTED_ANYWAY)
    depth = spaces = 0
    for token in _TOKEN.finditer(json):
        if (first := token[0][0]) == '"':
            continue
        depth += (first in "[{") - (first in "]}")
        spaces += 2 * depth
        if spaces > most:
            return True
    return False


def _on_its_line(token: re.Match[str]) -> str:
    text = token[0]
    return f"{text}\n" if text in ("[", "{", ",") else f"\n{text}" if text in ("]", "}") else text


def faithful(value: bytes) -> str | None:
    """Write a value so that every token comes back which nobody touches, from a form or a file: JSON in lines, or text
    that is printable. None for anything else.
    """
    if (found := pretty(value)) is not None:
        return found
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", "").replace("\t", "").isprintable() else None


def minified(value: bytes) -> bytes:
    """Write JSON without white space between its tokens; return what is no JSON as it is."""
    try:
        return _escaped(msgspec.json.format(value.decode(), indent=-1)).encode()
    except (ValueError, RecursionError):
        return value


def _escaped(json: str) -> str:
    """Escape what is not printable. In JSON it stands in strings alone."""
    if json.replace("\n", "").isprintable():
        return json
    return "".join(c if c.isprintable() or c == "\n" else dumps(c)[1:-1] for c in json)


def shown(value: bytes | None) -> str:
    """Write any value in lines."""
    if value is None:
        return "(no value)"
    if (found := pretty(value)) is not None:
        return found
    return "\n".join(printable(line) for line in value.decode(errors="backslashreplace").split("\n"))


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """Compare by lines: what goes (`-`), what comes (`+`), and some lines around them."""
    old, new = before.split("\n"), after.split("\n")
    first = _alike(old, new)
    last = _alike(old[first:][::-1], new[first:][::-1])
    lines = [(" ", line) for line in old[max(first - CONTEXT_LINES, 0) : first]]
    lines += _compared(old[first : len(old) - last], new[first : len(new) - last])
    lines += [(" ", line) for line in old[len(old) - last :][:CONTEXT_LINES]]
    found = [(sign, piece) for sign, line in lines for piece in _folded(sign, line)]
    if len(found) > SHOWN_LINES_MAX:
        found[SHOWN_LINES_MAX:] = [("…", f"{len(found) - SHOWN_LINES_MAX:,} more lines")]
    return found


def _alike(old: Sequence[str], new: Sequence[str]) -> int:
    """Count the lines at the beginning that are the same."""
    return next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _compared(old: list[str], new: list[str]) -> Iterator[tuple[str, str]]:
    codes: list[tuple[str, int, int, int, int]] = [("replace", 0, len(old), 0, len(new))]
    if max(len(old), len(new)) <= COMPARED_LINES_MAX:
        codes = list(SequenceMatcher(None, old, new).get_opcodes())
    for code, i, j, k, m in codes:
        if code == "equal":
            same = [(" ", line) for line in old[i:j]]
            gone = len(same) - 2 * CONTEXT_LINES
            yield from same if gone <= 0 else [*same[:CONTEXT_LINES], ("…", ""), *same[-CONTEXT_LINES:]]
        else:
            goes, comes = old[i:j], new[k:m]
            if len(goes) == len(comes):
                pairs = [_around(a, b) for a, b in zip(goes, comes, strict=True)]
                goes, comes = [a for a, _ in pairs], [b for _, b in pairs]
            yield from (("-", line) for line in goes)
            yield from (("+", line) for line in comes)


def _around(old: str, new: str) -> tuple[str, str]:
    """Cut two long lines to all that differs, from the first place to the last, and what is around it."""
    if max(len(old), len(new)) <= LINE_MAX:
        return old, new
    same = _alike(old, new)
    tail = _alike(old[same:][::-1], new[same:][::-1])
    begin, after = max(same - AROUND, 0), max(tail - AROUND, 0)
    a, b = (f"{'…' if begin else ''}{line[begin : len(line) - after]}{'…' if after else ''}" for line in (old, new))
    return a, b


def _folded(sign: str, line: str) -> list[str]:
    """Fold a long line that changes; of one that stays, the beginning is enough."""
    if len(line) <= LINE_MAX + 2:
        return [line]
    if sign == " ":
        return [f"{line[:LINE_MAX]}…"]
    pieces = [line[n : n + LINE_MAX] for n in range(0, min(len(line), LINE_MAX * FOLDS_MAX), LINE_MAX)]
    if (rest := len(line) - LINE_MAX * FOLDS_MAX) > 0:
        digest = hashlib.sha256(line.encode(errors="surrogatepass")).hexdigest()[:16]
        pieces.append(f"… {rest:,} more characters; SHA-256 of all of them: {digest}")
    return pieces
