"""Dead letters: records that cannot be handled, set aside in the transaction that moves the next offset past them.

The record itself is kept in a table of the service's database; an event on the topic `<service>.dead-letters` announces
it. `shared.operations.redrive` handles it again. An outbox row that Kafka refuses is set aside the same way: its origin
is the lane, its offset the id of the row.
"""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError

from ..events import Event
from ..protocol.ports import KEY_BYTES_MAX, Input, NewDeadLetter, Record
from ..service import Service
from ..session import Session
from ..telemetry.failures import DETAIL_MAX, describe, frames
from ..telemetry.gauges import Known
from .outbox import Outbox, PendingEvent

WAITING = Known(
    "exactly_once_dead_letters_waiting",
    "Dead letters neither re-driven nor dismissed, counted up to 100,000; absent if not known",
)
OLDEST = Known(
    "exactly_once_dead_letters_oldest_seconds",
    "Age of the oldest dead letter that waits; 0: none waits; absent if not known",
)
COUNTED_MAX = 100_000
"""Counting stops here: the rest changes nothing."""

KEPT_BYTES_MAX, CUT_BYTES = 100_000_000, 1_000_000
"""Of a larger record only the beginning is kept: PostgreSQL ends the session at a parameter of 1 GB, and a compressed
batch may hold such a record. The topic has it whole.
"""

_INSERT = text("""
    INSERT INTO exactly_once_dead_letter (
        topic, partition, "offset", epoch, key, value, headers, error, detail, traceback, traceparent
    )
    VALUES (
        :topic, :partition, :offset, :epoch, :key, :value, CAST(:headers AS jsonb), :error, :detail, :traceback,
        :traceparent
    )
    RETURNING id
""")


class RecordSetAside(Event, frozen=True, kw_only=True):
    """A record was set aside; the record itself is row `dead_letter` of the table `exactly_once_dead_letter`."""

    topic = ""  # every service has its own: Service.dead_letter_topic

    dead_letter: int
    source_topic: str
    partition: int
    offset: int
    error: str
    detail: str


def cause_id(service: str, record: Record, epoch: int, event_type: str, n: int) -> str:
    """The id of the n-th event of a type that `service` publishes about `record`: the same each time it is handled."""
    return f"{service}:{record.input.topic}-{record.input.partition}.{epoch}.{record.offset}.{event_type}.{n}"


def set_aside(session: Session, service: Service, outbox: Outbox, dead_letters: Sequence[NewDeadLetter]) -> list[int]:
    """Insert and announce `dead_letters`; return their ids. A record is stored whatever it contains, and what is
    reported of it is bounded.
    """
    if not dead_letters:
        return []
    numbers = _insert(session.connection(), [_row(dead_letter) for dead_letter in dead_letters])
    for number, dead_letter in zip(numbers, dead_letters, strict=True):
        record = dead_letter.record
        error, detail = describe(dead_letter.error)
        traceparent = dead_letter.envelope.traceparent if dead_letter.envelope else None
        if _is_notice(service, dead_letter):
            continue  # it would be refused as this one was, and so on for ever
        told = RecordSetAside(
            dead_letter=number,
            source_topic=record.input.topic,
            partition=record.input.partition,
            offset=record.offset,
            error=error,
            detail=detail,
        )
        data = msgspec.json.encode(told)
        while told.detail and len(data) > outbox.event_bytes_max:
            told = msgspec.structs.replace(told, detail=told.detail[: len(told.detail) // 2])
            data = msgspec.json.encode(told)
        key = dead_letter.envelope.key if dead_letter.envelope else ""
        if not 0 < len(key.encode()) <= KEY_BYTES_MAX:
            key = str(record.input)
        event_id = cause_id(service.name, record, dead_letter.epoch, RecordSetAside.__name__, 0)
        outbox.keep(session, PendingEvent(told, data, service.dead_letter_topic, key, event_id, traceparent))
    return numbers


def _is_notice(service: Service, dead_letter: NewDeadLetter) -> bool:
    """Whether it is an outbox row that announces a dead letter."""
    of_outbox = dead_letter.record.input.topic == service.lane_topic
    return of_outbox and dead_letter.envelope is not None and dead_letter.envelope.type == RecordSetAside.__name__


def _row(dead_letter: NewDeadLetter) -> dict[str, Any]:
    record = dead_letter.record
    error, detail = describe(dead_letter.error)
    value, headers = record.value, record.headers or ()
    size = len(value or b"") + sum(len(name) + len(held or b"") for name, held in headers)
    if size > KEPT_BYTES_MAX:
        detail = f"{detail[: DETAIL_MAX // 2]} (of {size} bytes only the first {CUT_BYTES} of the value are kept)"
        value, headers = (value or b"")[:CUT_BYTES], ()
    return {
        "topic": record.input.topic,
        "partition": record.input.partition,
        "offset": record.offset,
        "epoch": dead_letter.epoch,
        "key": record.key,
        "value": value,
        "headers": json.dumps([(name, None if v is None else base64.b64encode(v).decode()) for name, v in headers]),
        "error": error,
        "detail": detail,
        "traceback": frames(dead_letter.error),
        "traceparent": dead_letter.envelope.traceparent if dead_letter.envelope else None,
    }


def _insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    try:
        with connection.begin_nested():
            return [connection.execute(_INSERT, row).scalar_one() for row in rows]
    except (DataError, UnicodeError):
        if len(rows) > 1:
            return [number for row in rows for number in _insert(connection, [row])]
    # A database whose encoding is not UTF-8 lacks some characters.
    (row,) = rows
    plain = [(_ascii(name), held) for name, held in json.loads(row["headers"])]
    row |= {"headers": json.dumps(plain), "error": _ascii(row["error"]), "detail": _ascii(row["detail"])}
    row["traceback"] = row["traceback"].encode("ascii", errors="backslashreplace").decode()
    return [connection.execute(_INSERT, row).scalar_one()]


def _ascii(text: str) -> str:
    return text.encode("ascii", errors="backslashreplace").decode()[:DETAIL_MAX]


class DeadLetter(NamedTuple):
    """A dead letter as it is kept."""

    id: int
    record: Record
    epoch: int
    error: str
    detail: str
    traceparent: str | None
    set_aside_at: datetime
    redriven_at: datetime | None
    traceback: str | None
    """Where it failed; None if an older version set it aside."""
    dismissed_at: datetime | None
    dismissed_by: int | None
    """The decision that did it."""

    @property
    def event_id(self) -> str | None:
        """The id of the event, if it has one that can be read."""
        return self.header("ce_id")

    @property
    def event_type(self) -> str | None:
        """The type of the event with its version, if it has one that can be read."""
        return self.header("ce_type")

    def header(self, name: str) -> str | None:
        """The text of a header; None if it has none."""
        found = dict(self.record.headers or ()).get(name)
        return None if found is None else found.decode(errors="replace")


_COLUMNS = """
    id, topic, partition, "offset", key, value, headers, epoch, error, detail, traceparent, set_aside_at, redriven_at,
    traceback, dismissed_at, dismissed_by
"""
_FIND = f"SELECT {_COLUMNS} FROM exactly_once_dead_letter WHERE id = :id"  # noqa: S608 - constants
_OPEN = "redriven_at IS NULL AND dismissed_at IS NULL"
_WAITING = text(f"SELECT id FROM exactly_once_dead_letter WHERE {_OPEN} AND id > :after ORDER BY id LIMIT :most")  # noqa: S608
_LOOK = text(f"""
    SELECT (SELECT count(*) FROM (SELECT FROM exactly_once_dead_letter WHERE {_OPEN} LIMIT :most) AS counted),
           (SELECT extract(epoch FROM clock_timestamp() - set_aside_at) FROM exactly_once_dead_letter WHERE {_OPEN}
            ORDER BY id LIMIT 1)
""")  # noqa: S608 - constants
_PRUNE = text("""
    DELETE FROM exactly_once_dead_letter WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM exactly_once_dead_letter
        WHERE redriven_at < clock_timestamp() - make_interval(secs => :seconds)
            OR dismissed_at < clock_timestamp() - make_interval(secs => :seconds) LIMIT :rows
    ))
""")
_DONE = text("UPDATE exactly_once_dead_letter SET redriven_at = clock_timestamp() WHERE id = :id")
_FAILED = text(
    "UPDATE exactly_once_dead_letter SET error = :error, detail = :detail, traceback = :traceback "
    "WHERE id = :id AND redriven_at IS NULL"
)


def _dead_letter(row: Any) -> DeadLetter:
    headers = [(name, None if value is None else base64.b64decode(value)) for name, value in row.headers]
    record = Record(Input(row.topic, row.partition), row.offset, row.key, row.value, headers)
    return DeadLetter(row.id, record, *row[7:])


def find(connection: Connection, number: int, *, lock: bool = False) -> DeadLetter | None:
    """Return a dead letter; `lock` keeps others from redriving it meanwhile."""
    row = connection.execute(text(_FIND + (" FOR UPDATE" if lock else "")), {"id": number}).one_or_none()
    return None if row is None else _dead_letter(row)


def look(connection: Connection) -> None:
    """Show how many wait, and the age of the oldest. Costs an index look-up for each, COUNTED_MAX at most."""
    count, seconds = connection.execute(_LOOK, {"most": COUNTED_MAX}).one()
    WAITING.set(count)
    OLDEST.set(max(float(seconds or 0), 0.0))


def prune(connection: Connection, seconds: float, rows: int) -> int:
    """Delete up to `rows` that were redriven or dismissed more than `seconds` ago; return how many were deleted."""
    return connection.execute(_PRUNE, {"seconds": seconds, "rows": rows}).rowcount


def waiting(connection: Connection, after: int, most: int) -> list[int]:
    """Return the next dead letters that were neither redriven nor dismissed."""
    return list(connection.execute(_WAITING, {"after": after, "most": most}).scalars())


def done(connection: Connection, number: int) -> None:
    """Mark a dead letter as redriven."""
    connection.execute(_DONE, {"id": number})


def failed(connection: Connection, number: int, reason: BaseException) -> None:
    """Keep why a dead letter cannot be handled now."""
    error, detail = describe(reason)
    facts = {"id": number, "error": error, "detail": detail, "traceback": frames(reason)}
    connection.execute(_FAILED, facts)
