"""`positions set-aside`: the record that an input waits at becomes a dead letter, and the input goes on behind it.

A handler that raises `Retry` for ever holds up its input, and `skip` would lose the record. Here it is kept: one
PostgreSQL transaction locks the next offset, inserts the dead letter and its notice, moves the next offset past the
record, and records the decision. A worker does the same with a record that can never be handled, so this is safe while
workers run: one that is handling the record finds the next offset beyond it, and drops it.
"""

import re
import time
from typing import NamedTuple

from sqlalchemy import Connection

from .. import events
from ..errors import CommandFailed, KafkaUnavailable, Malformed, Retry
from ..events import Envelope
from ..kafka.consumer import headers
from ..postgres import dead_letters, positions
from ..protocol.ports import Input, NewDeadLetter, Position, Record
from ..session import Session
from . import maintenance, survey
from .decisions import refuse_other
from .group import Group
from .maintenance import Context, Maintenance
from .output import echo
from .reading import Reading

AHEAD = 10_000
"""Later records that are searched for its key: some seconds of reading."""

PATIENCE_SECONDS = 15.0
"""The longest wait without a record. Everything read is settled."""


class _Found(NamedTuple):
    record: Record
    behind: int
    """How many of the later records that were read have its key."""
    read: int


def set_aside(context: Context, source: str, offset: int | None, *, reason: str, yes: bool) -> None:
    """Set aside the record that `source` waits at. Raises `CommandFailed`, for example if it is not at `offset`."""
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why this record is set aside")
    if yes and offset is None:
        raise CommandFailed("--yes needs --offset, to be sure of the record that you mean")
    which = _input(context, source)
    with context.engine.connect() as connection:
        position, end = _see(context, connection, which)
        found = _look(context, which, position.next_offset, end)
        record, envelope = found.record, _envelope(found.record)
        if offset not in (None, record.offset):
            raise CommandFailed(f"{which} waits at offset {record.offset}, not at {offset}: nothing was changed")
        _describe(which, found, envelope)
        maintenance.confirm(f"set aside {which}@{record.offset}?", yes=yes)
        number = _move(
            context, connection, position, NewDeadLetter(record, position.epoch, envelope, _reason(reason)), reason
        )
    echo(f"{which}@{record.offset} is dead letter {number} now; the input goes on behind it")
    echo(f"to handle it after all: {context.command(f'dead-letters redrive {number}')}")


def _reason(reason: str) -> Retry:
    return Retry(f"an operator set it aside: {reason}")


def _input(context: Context, source: str) -> Input:
    found = re.fullmatch(r"(.+)\[([0-9]{1,10})\]", source)
    if found is None or found[1] not in context.service.consumed_topics:
        raise CommandFailed(
            f"{source} is not an input, '<topic>[<partition>]'; the topics are "
            f"{', '.join(context.service.consumed_topics)}"
        )
    return Input(found[1], int(found[2]))


def _see(context: Context, connection: Connection, source: Input) -> tuple[Position, int]:
    """Return the next offset and the end of the readable records. Raises `CommandFailed` if something else must be
    decided first.
    """
    with Group(context.settings, context.service) as group:
        refuse_other(Maintenance(context, group, connection), source.topic)
        topic = group.topics([source.topic]).get(source.topic)
        if topic is None:
            raise CommandFailed(f"Kafka has no topic {source.topic}")
        if source.partition >= topic.partitions:
            raise CommandFailed(
                f"{source.topic} has no partition {source.partition}: its last is {topic.partitions - 1}"
            )
        (state,) = survey.see_inputs(connection, group, [source])
    stop = state.disagreement(context.service.name)
    if stop is not None:
        raise CommandFailed(f"decide this first: {stop}")
    if state.position is None or state.span is None:
        raise CommandFailed(f"{source}: no worker has handled it yet")
    return state.position, state.span.stable


def _look(context: Context, source: Input, next_offset: int, end: int) -> _Found:
    """Read the record at the next offset, or the first one behind it if only markers lie between, and later ones."""
    first: Record | None = None
    behind = read = 0
    reading = Reading(context, {source: (next_offset, min(end, next_offset + AHEAD))}, removed="error")
    for portion in reading.portions():
        for _, offset, message in portion:
            if first is None:
                first = Record(source, offset, message.key(), message.value(), headers(message))
            else:
                read += 1
                behind += message.key() == first.key
        if time.monotonic() > reading.silent_since + PATIENCE_SECONDS:
            raise KafkaUnavailable(f"nothing arrives from {source} at offset {next_offset}")
    if first is None:
        raise CommandFailed(f"{source}: no record waits from offset {next_offset} on")
    return _Found(first, behind, read)


def _envelope(record: Record) -> Envelope | None:
    try:
        return events.envelope(record.key, record.value, record.headers)
    except Malformed:
        return None


def _describe(source: Input, found: _Found, envelope: Envelope | None) -> None:
    what = (
        f"{envelope.type}.v{envelope.version} {envelope.id}, key {envelope.key}"
        if envelope
        else "not an event that can be read"
    )
    echo(f"{source}@{found.record.offset}: {what}")
    echo(
        f"of the next {found.read:,} records, {found.behind:,} have the same key; they are handled without it, and it "
        "is handled after them if it is re-driven: the handlers have to cope with that order"
    )


def _move(context: Context, connection: Connection, position: Position, dead_letter: NewDeadLetter, reason: str) -> int:
    source, offset = dead_letter.record.input, dead_letter.record.offset
    with Session(connection) as session, session.begin():
        bound = session.connection()
        if positions.lock(bound, [source]).get(source) != position:
            raise CommandFailed(
                f"{source} has moved on meanwhile, so the record was handled or decided: nothing was changed"
            )
        (number,) = dead_letters.set_aside(session, context.service, context.outbox, [dead_letter])
        context.outbox.write(session)
        positions.advance(bound, {source: offset + 1})
        maintenance.decided(
            bound,
            "positions set-aside",
            str(source),
            {
                "H": position.next_offset,
                "offset": offset,
                "event_id": dead_letter.envelope.id if dead_letter.envelope else None,
            },
            {"H": offset + 1, "dead_letter": number, "reason": reason},
        )
    return number
