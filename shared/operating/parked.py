"""`positions set-aside`: the record that an input waits at becomes a dead letter, and the input goes on behind it.

A handler that raises `Retry` for ever holds up its input, and `skip` would lose the record. Here it is kept: one
transaction of PostgreSQL locks H, inserts the dead letter and its notice, moves H past the record, and remembers the
decision. That is what a worker does with a record that can never be handled, so it may be done while workers work: one
that has the record in its hands finds H beyond it, and drops it.
"""

import re
import time
from typing import NamedTuple

from sqlalchemy import Connection

from .. import dead_letters, events, positions
from ..consumer import headers
from ..errors import KafkaUnavailable, Malformed, NotDone, Retry
from ..events import Envelope
from ..ports import Input, Letter, Position, Record
from ..session import Session
from . import rules, survey
from .decisions import refuse_other
from .group import Group
from .output import say
from .reading import Reading
from .rules import Alone, Desk

AHEAD = 10_000
"""Records behind it that are searched for its key: some seconds of reading."""

PATIENCE_SECONDS = 15.0
"""How long nothing may come. Everything that is read is settled."""


class _Found(NamedTuple):
    record: Record
    behind: int
    """How many of the records behind it, of those that were read, have its key."""
    read: int


def set_aside(desk: Desk, source: str, offset: int | None, *, reason: str, yes: bool) -> None:
    """Set aside the record that `source` waits at. Raises `NotDone`, if it is not the one at `offset` for example."""
    if not reason.strip():
        raise NotDone("--reason is empty: say why this record is not waited for")
    if yes and offset is None:
        raise NotDone("--yes needs --offset, so that it is the record that you mean")
    which = _input(desk, source)
    with desk.engine.connect() as connection:
        position, end = _see(desk, connection, which)
        found = _look(desk, which, position.next_offset, end)
        record, told = found.record, _envelope(found.record)
        if offset not in (None, record.offset):
            raise NotDone(f"{which} waits at offset {record.offset}, not at {offset}: nothing was changed")
        _say_what(which, found, told)
        rules.confirm(f"set aside {which}@{record.offset}?", yes=yes)
        number = _move(desk, connection, position, Letter(record, position.epoch, told, _reason(reason)), reason)
    say(f"{which}@{record.offset} is dead letter {number} now; the input goes on behind it")
    say(f"to handle it after all: {desk.command(f'dead-letters redrive {number}')}")


def _reason(reason: str) -> Retry:
    return Retry(f"an operator set it aside: {reason}")


def _input(desk: Desk, source: str) -> Input:
    found = re.fullmatch(r"(.+)\[(\d+)\]", source)
    if found is None or found[1] not in desk.service.hears:
        raise NotDone(
            f"{source} is no input like '<topic>[<partition>]'; known topics: {', '.join(desk.service.hears)}"
        )
    return Input(found[1], int(found[2]))


def _see(desk: Desk, connection: Connection, source: Input) -> tuple[Position, int]:
    """Give H and the end of what can be read. Raises `NotDone` where something else must be decided first."""
    with Group(desk.settings, desk.service) as group:
        refuse_other(Alone(desk, group, connection), source.topic)
        topic = group.topics([source.topic]).get(source.topic)
        if topic is None:
            raise NotDone(f"Kafka has no topic {source.topic}")
        if source.partition >= topic.partitions:
            raise NotDone(f"{source.topic} has no partition {source.partition}: its last is {topic.partitions - 1}")
        (state,) = survey.see_inputs(connection, group, [source])
    stop = state.disagreement(desk.service.name)
    if stop is not None:
        raise NotDone(f"first this must be decided: {stop}")
    if state.position is None or state.span is None:
        raise NotDone(f"{source}: no worker has begun with it")
    return state.position, state.span.stable


def _look(desk: Desk, source: Input, h: int, end: int) -> _Found:
    """Read the record at H, or the first one behind it where only markers lie between, and what comes after it."""
    first: Record | None = None
    behind = read = 0
    reading = Reading(desk, {source: (h, min(end, h + AHEAD))}, removed="error")
    for portion in reading.portions():
        for _, offset, message in portion:
            if first is None:
                first = Record(source, offset, message.key(), message.value(), headers(message))
            else:
                read += 1
                behind += message.key() == first.key
        if time.monotonic() > reading.silent_since + PATIENCE_SECONDS:
            raise KafkaUnavailable(f"nothing comes from {source} at offset {h}")
    if first is None:
        raise NotDone(f"{source}: no record waits from offset {h} on")
    return _Found(first, behind, read)


def _envelope(record: Record) -> Envelope | None:
    try:
        return events.envelope(record.key, record.value, record.headers)
    except Malformed:
        return None


def _say_what(source: Input, found: _Found, told: Envelope | None) -> None:
    what = f"{told.type}.v{told.version} {told.id}, key {told.key}" if told else "no event of ours"
    say(f"{source}@{found.record.offset}: {what}")
    say(
        f"of the {found.read:,} records behind it that were looked at, {found.behind:,} have the same key; they are "
        "handled without it, and it is handled after them when it is re-driven: the handlers have to bear that order"
    )


def _move(desk: Desk, connection: Connection, position: Position, letter: Letter, reason: str) -> int:
    source, offset = letter.record.input, letter.record.offset
    with Session(connection) as session, session.begin():
        here = session.connection()
        if positions.lock(here, [source]).get(source) != position:
            raise NotDone(f"{source} was moved meanwhile, so the record was handled or decided: nothing was changed")
        (number,) = dead_letters.set_aside(session, desk.service, desk.outbox, [letter])
        desk.outbox.write(session)
        positions.advance(here, {source: offset + 1})
        rules.decided(
            here,
            "positions set-aside",
            str(source),
            {"H": position.next_offset, "offset": offset, "event_id": letter.envelope.id if letter.envelope else None},
            {"H": offset + 1, "dead_letter": number, "reason": reason},
        )
    return number
