"""`dead-letters list | show`: what was set aside, in a readable form even if it is binary."""

from base64 import b64decode
from datetime import datetime
from json import dumps, loads
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, text

from .. import trace_context
from ..errors import CommandFailed
from ..postgres import dead_letters
from ..postgres.dead_letters import DeadLetter
from ..protocol.ports import Input, Record
from . import editing
from .maintenance import Context
from .output import as_json, echo, oldest, printable

CELL = 60
"""Characters of an error in a list."""

GROUPS_MAX = 50
"""Groups of dead letters that are told apart; the rest is a long tail."""

State = Literal["open", "redriven", "dismissed"]

_STATES: dict[State, str] = {
    "open": "redriven_at IS NULL AND dismissed_at IS NULL",
    "redriven": "redriven_at IS NOT NULL",
    "dismissed": "dismissed_at IS NOT NULL",
}
# Without the values, of which a page of a hundred may have a hundred megabytes; the headers that it shows are read by
# the server: up to the 500 bytes that one of ours may have, in base64. A state is part of the text, so that its index
# can serve.
_HEADER = """
    (SELECT left(header ->> 1, 668) FROM jsonb_array_elements(headers) AS header WHERE header ->> 0 = '{}' LIMIT 1)
"""
_BRIEF = f"""
    SELECT id, topic, partition, "offset", error, left(detail, 300), set_aside_at, redriven_at, dismissed_at,
           dismissed_by, {_HEADER.format("ce_type")}, {_HEADER.format("ce_id")}, octet_length(value)
    FROM exactly_once_dead_letter
    WHERE {{state}} AND (CAST(:topic AS text) IS NULL OR topic = :topic)
        AND (CAST(:error AS text) IS NULL OR error = :error) AND id > :after
    ORDER BY id LIMIT :most
"""  # noqa: S608 - constants
# As much of it as a list says: the command may be asked for ten thousand, of a megabyte each.
_LISTED = f"""
    SELECT id, topic, partition, "offset", {_HEADER.format("ce_type")}, {_HEADER.format("ce_id")}, epoch, error, detail,
           traceparent, set_aside_at, redriven_at, traceback, dismissed_at, dismissed_by
    FROM exactly_once_dead_letter
    WHERE {{state}} AND (CAST(:topic AS text) IS NULL OR topic = :topic)
        AND (CAST(:error AS text) IS NULL OR error = :error)
    ORDER BY id LIMIT :most
"""  # noqa: S608 - constants
_IDS = f"""
    SELECT id FROM exactly_once_dead_letter
    WHERE {_STATES["open"]} AND (CAST(:topic AS text) IS NULL OR topic = :topic)
        AND (CAST(:error AS text) IS NULL OR error = :error) AND id <= :last
    ORDER BY id LIMIT :most
"""  # noqa: S608 - constants
_GROUPS = text(f"""
    SELECT topic, error, count(*), extract(epoch FROM clock_timestamp() - min(set_aside_at))
    FROM (
        SELECT topic, error, set_aside_at FROM exactly_once_dead_letter WHERE {_STATES["open"]} ORDER BY id LIMIT :most
    ) AS oldest
    GROUP BY topic, error ORDER BY count(*) DESC, topic, error LIMIT :groups
""")  # noqa: S608 - constants
_BEGINNING = text("""
    SELECT id, topic, partition, "offset", substring(key FOR :bytes), substring(value FOR :bytes),
           CASE WHEN pg_column_size(headers) <= :bytes THEN headers ELSE '[]' END, epoch, error, detail, traceparent,
           set_aside_at, redriven_at, traceback, dismissed_at, dismissed_by,
           coalesce(octet_length(key), 0), coalesce(octet_length(value), 0), pg_column_size(headers)
    FROM exactly_once_dead_letter WHERE id = :id
""")


class Brief(NamedTuple):
    """A dead letter in a list: without its value."""

    id: int
    input: Input
    offset: int
    error: str
    detail: str
    set_aside_at: datetime
    redriven_at: datetime | None
    dismissed_at: datetime | None
    dismissed_by: int | None
    event_type: str | None
    event_id: str | None
    size: int | None
    """Bytes of its value; None: it has none."""


class Alike(NamedTuple):
    """Dead letters of one topic, set aside for one error."""

    topic: str
    error: str
    number: int
    oldest_seconds: float


def brief(
    connection: Connection, *, state: State, topic: str | None, error: str | None, after: int, most: int
) -> list[Brief]:
    """List dead letters from `after` on, the oldest first, whatever their values weigh."""
    asked = {"topic": topic, "error": error, "after": after, "most": most}
    rows = connection.execute(text(_BRIEF.format(state=_STATES[state])), asked)
    return [
        Brief._make((number, Input(topic, partition), *facts, _text(kind), _text(name), size))
        for number, topic, partition, *facts, kind, name, size in rows
    ]


def listed(
    connection: Connection, *, state: State | None, topic: str | None, error: str | None, most: int
) -> list[DeadLetter]:
    """List dead letters without key and value, and of their headers those that name the event."""
    asked = {"topic": topic, "error": error, "most": most}
    rows = connection.execute(text(_LISTED.format(state=_STATES[state] if state else "true")), asked)
    found = []
    for number, origin, partition, offset, kind, name, *facts in rows:
        told = (("ce_type", _text(kind)), ("ce_id", _text(name)))
        headers = [(header, value.encode()) for header, value in told if value is not None]
        found.append(DeadLetter(number, Record(Input(origin, partition), offset, None, None, headers), *facts))
    return found


def waiting(connection: Connection, *, topic: str | None, error: str | None, last: int, most: int) -> list[int]:
    """Return the first that wait, up to the id `last`, of a topic or with an error."""
    asked = {"topic": topic, "error": error, "last": last, "most": most}
    return list(connection.execute(text(_IDS), asked).scalars())


def alike(connection: Connection) -> list[Alike]:
    """Count those that wait by topic and error: of the oldest `dead_letters.COUNTED_MAX`, the largest groups."""
    rows = connection.execute(_GROUPS, {"most": dead_letters.COUNTED_MAX, "groups": GROUPS_MAX})
    return [Alike(topic, error, number, max(float(age), 0.0)) for topic, error, number, age in rows]


class Beginning(NamedTuple):
    """A dead letter, of which key and value are cut, and headers that are too large are left out."""

    letter: DeadLetter
    key_bytes: int
    value_bytes: int
    headers_bytes: int
    bytes_max: int

    @property
    def is_cut(self) -> bool:
        """Whether something is missing."""
        return max(self.key_bytes, self.value_bytes, self.headers_bytes) > self.bytes_max


def beginning(connection: Connection, number: int, bytes_max: int) -> Beginning | None:
    """Return a dead letter with `bytes_max` of each of its parts at most."""
    row = connection.execute(_BEGINNING, {"id": number, "bytes": bytes_max}).one_or_none()
    if row is None:
        return None
    number, topic, partition, offset, key, value, kept, *facts, key_bytes, value_bytes, headers_bytes = row
    headers = [(name, None if held is None else b64decode(held)) for name, held in kept]
    record = Record(Input(topic, partition), offset, key, value, headers)
    return Beginning(DeadLetter(number, record, *facts), key_bytes, value_bytes, headers_bytes, bytes_max)


def _text(encoded: str | None) -> str | None:
    """Decode the beginning of a header's value, cut to whole groups of base64."""
    return None if encoded is None else b64decode(encoded[: len(encoded) // 4 * 4]).decode(errors="replace")


def show_all(
    context: Context, *, state: State | None, topic: str | None, error: str | None, most: int, json: bool
) -> None:
    """List dead letters, the oldest first."""
    with context.engine.begin() as connection:
        found = listed(connection, state=state, topic=topic, error=error, most=most + 1)
    oldest(
        found,
        most,
        json=json,
        facts=_facts,
        heads=("ID", "FROM", "OFFSET", "EVENT", "EVENT ID", "ERROR", "SET ASIDE", "RE-DRIVEN", "DISMISSED"),
        cells=lambda dead_letter: (
            dead_letter.id,
            dead_letter.record.input,
            dead_letter.record.offset,
            dead_letter.event_type,
            dead_letter.event_id,
            first_line(f"{dead_letter.error}: {dead_letter.detail}"),
            f"{dead_letter.set_aside_at:%Y-%m-%d %H:%M:%S}",
            f"{dead_letter.redriven_at:%Y-%m-%d %H:%M:%S}" if dead_letter.redriven_at else None,
            f"by decision {dead_letter.dismissed_by}" if dead_letter.dismissed_at else None,
        ),
    )


def show(context: Context, number: int, *, json: bool, value: bool) -> None:
    """Show one dead letter with its headers and its value, or only the value, as `edit` takes it."""
    with context.engine.begin() as connection:
        dead_letter = dead_letters.find(connection, number)
        edit = editing.newest(connection, number)
    if dead_letter is None:
        raise CommandFailed(f"there is no dead letter {number}")
    if value:
        _print_value(edit.value if edit else dead_letter.record.value)
        return
    edited = {"edited_by": edit.decision, "edited_value": readable(edit.value)} if edit else {}
    facts = {
        **_facts(dead_letter),
        "key": readable(dead_letter.record.key),
        "headers": {name: readable(value) for name, value in dead_letter.record.headers or ()},
        "value": readable(dead_letter.record.value),
        **edited,
    }
    if json:
        as_json(facts)
        return
    for name, fact in facts.items():
        if name == "headers":
            for header, held in fact.items():
                echo(f"header       {header} = {on_one_line(held)}")
        elif name == "traceback" and fact is not None:
            for line in fact.splitlines():
                echo(f"traceback    {on_one_line(line)}")
        else:
            echo(f"{name:12} {on_one_line(fact)}")


def _print_value(value: bytes | None) -> None:
    text = None if value is None else editing.faithful(value)
    if text is None or "\t" in text:
        raise CommandFailed("its value is neither JSON nor plain text: without --value it is shown with escapes")
    for line in text.split("\n"):
        echo(line)


def _facts(dead_letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": dead_letter.id,
        "from": str(dead_letter.record.input),
        "offset": dead_letter.record.offset,
        "epoch": dead_letter.epoch,
        "event": dead_letter.event_type,
        "event_id": dead_letter.event_id,
        "error": dead_letter.error,
        "detail": dead_letter.detail,
        "traceback": dead_letter.traceback,
        **trace_context.named(dead_letter.traceparent),
        "set_aside_at": dead_letter.set_aside_at.isoformat(),
        "redriven_at": dead_letter.redriven_at.isoformat() if dead_letter.redriven_at else None,
        "dismissed_at": dead_letter.dismissed_at.isoformat() if dead_letter.dismissed_at else None,
        "dismissed_by": dead_letter.dismissed_by,
    }


def readable(data: bytes | None) -> Any:
    """Decode `data`: as JSON if possible, else as text, else as its bytes in hexadecimal."""
    if data is None:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
    try:
        found = loads(text)
        if editing.is_sprawling(text):  # a command would print megabytes of indentation
            return text
        dumps(found, indent=2, allow_nan=False)  # too deep, or not strict JSON: stays text
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict | list) else text


def on_one_line(value: Any) -> str:
    """Return a fact on one line; a dash for none."""
    if value is None:
        return "-"
    # JSON on one line, with non-ASCII text as it is: the output escapes what is not printable.
    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def first_line(text: str) -> str:
    """Return the first line of an error, cut to fit a list."""
    line = printable(text.splitlines()[0] if text else "")
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"
