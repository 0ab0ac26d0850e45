"""`parked list | show | retry-now | give-up`: keys that wait, and what an operator may decide about them.

A worker tries the first record of each again by itself; these commands are for what it cannot know. `give-up` makes a
dead letter of that record, in one PostgreSQL transaction: the next offset is locked, as a worker's attempt does, the
record is taken, its event leaves the inbox, the dead letter and its notice are inserted, and the decision is recorded.
So it is safe while workers run: one that is about to try the record finds it gone.
"""

import re
from typing import Any, overload

from sqlalchemy import Connection

from .. import events
from ..errors import CommandFailed, Malformed, Retry
from ..events import Envelope
from ..postgres import dead_letters, parked, pauses, positions
from ..postgres.parked import ParkedKey
from ..protocol.ports import Input, NewDeadLetter, ParkedRecord, Record
from ..session import Session
from . import maintenance
from .dead_letters import first_line, on_one_line, readable
from .maintenance import Context
from .output import age, as_json, echo, oldest, printable

WHOLE_MAX = 10_000
"""Records of one key that one decision gives up: each becomes a dead letter and a notice, in one transaction."""


def show_all(context: Context, *, topic: str | None, most: int, json: bool) -> None:
    """List the keys that wait, the one that has waited longest first."""
    with context.engine.begin() as connection:
        found = parked.keys(connection, topic=topic, most=most + 1)
    oldest(
        found,
        most,
        json=json,
        facts=_facts,
        heads=("FROM", "KEY", "RECORDS", "FIRST", "EVENT", "TRIED", "FOR", "DUE IN", "ERROR"),
        cells=lambda key: (
            key.input,
            _text(key.key),
            key.records,
            key.offset,
            key.header("ce_type"),
            key.attempts,
            age(key.oldest_seconds),
            f"dead letter {key.dead_letter}" if key.due_seconds is None else age(max(key.due_seconds, 0.0)),
            first_line(f"{key.error}: {key.detail}") if key.error else None,
        ),
    )


def show(context: Context, source: str, key: str, *, most: int, json: bool) -> None:
    """Show a key that waits: its first record as it is, and the records behind it."""
    which = _input(context, source)
    with context.engine.begin() as connection:
        found = parked.keys(connection, source=which, key=_bytes(key), most=1)
        waiting = parked.records(connection, which, _bytes(key), most)
    if not found or not waiting:
        raise CommandFailed(f"{which} has no parked record of key {key!r}")
    facts = {
        **_facts(found[0]),
        "traceback": found[0].traceback,
        "headers": {name: readable(value) for name, value in waiting[0].record.headers or ()},
        "value": readable(waiting[0].record.value),
        "waits": [{"offset": one.record.offset, **_named(one.record)} for one in waiting],
    }
    if json:
        as_json(facts)
        return
    for name, fact in facts.items():
        if name == "waits":
            for one in waiting:
                named = _named(one.record)
                echo(f"waits          {one.record.offset}  {named['event'] or '-'}  {named['event_id'] or '-'}")
        elif name == "headers":
            for header, value in facts["headers"].items():
                echo(f"header         {header} = {on_one_line(value)}")
        elif name == "traceback" and fact is not None:
            for line in fact.splitlines():
                echo(f"traceback      {on_one_line(line)}")
        else:
            echo(f"{name:14} {on_one_line(fact)}")
    if found[0].records > len(waiting):
        echo(f"... the first {len(waiting)} of {found[0].records}; --limit shows more")


def retry_now(context: Context, source: str | None, key: str | None, *, every: bool) -> bool:
    """Let a key, those of an input, or all be due now; False if none waits."""
    if every == (source is not None) or (key is not None and source is None):
        raise CommandFailed("name what is to be tried: --target and --key, or --target, or --all")
    which = _input(context, source) if source is not None else None
    with context.engine.begin() as connection:
        found = parked.keys(connection, source=which, key=_bytes(key), most=1)
        if not found:
            echo("no such key waits")
            return False
        if key is not None:
            _refuse_held(context, found[0])
        parked.retry_now(connection, source=which, key=_bytes(key))
        target = "parked keys" if which is None else str(which)
        maintenance.decided(connection, "parked retry-now", target, {"key": key and printable(key)}, {})
        paused = [pause for pause in pauses.look(connection).values() if which is None or which.topic == pause.topic]
    if which is None or not paused:
        echo("due now: whoever owns the partition tries it within a second")
    for pause in paused:
        echo(f"{pause.topic} is {pause}. Its keys are tried after {context.command(f'inputs resume {pause.topic}')}")
    return True


def give_up(
    context: Context, source: str, key: str, offset: int | None, *, whole: bool, reason: str, yes: bool
) -> None:
    """Make a dead letter of the first parked record of a key, or of all. Raises `CommandFailed`."""
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why this record will not be handled")
    if yes and offset is None:
        raise CommandFailed("--yes needs --offset, to be sure of the record that you mean")
    which = _input(context, source)
    with context.engine.connect() as connection:
        with connection.begin():
            found = parked.keys(connection, source=which, key=_bytes(key), most=1)
            seen = parked.records(connection, which, _bytes(key), WHOLE_MAX)
        if not found or not seen:
            raise CommandFailed(f"{which} has no parked record of key {key!r}")
        _refuse_held(context, found[0])
        first = seen[0].record
        if offset not in (None, first.offset):
            raise CommandFailed(f"key {key!r} waits at offset {first.offset}, not at {offset}: nothing was changed")
        named = _named(first)
        echo(f"{which}@{first.offset}: {named['event'] or 'unknown'} {named['event_id'] or ''}, key {key}")
        chosen = seen if whole else seen[:1]
        if len(seen) > len(chosen):
            echo(f"{len(seen) - len(chosen):,} of its key wait behind it; they are handled without it")
        question = f"give up {len(chosen):,} record{'s' if len(chosen) > 1 else ''} of key {key}?"
        maintenance.confirm(question, yes=yes)
        numbers = _move(context, connection, key, chosen, reason)
    echo(f"{len(numbers):,} dead letter{'s' if len(numbers) > 1 else ''} now, from {numbers[0]} on")
    echo(f"to handle it after all: {context.command(f'dead-letters redrive {numbers[0]}')}")


def _move(context: Context, connection: Connection, key: str, chosen: list[ParkedRecord], reason: str) -> list[int]:
    source = chosen[0].record.input
    with Session(connection) as session, session.begin():
        bound = session.connection()
        positions.lock(bound, [source])
        if parked.take(bound, chosen) != len(chosen):
            raise CommandFailed(
                f"key {key!r} has moved on meanwhile, or one of these is a dead letter already: nothing was changed. "
                "Look again with `parked show`, and give up what is before that dead letter first"
            )
        error = Retry(f"an operator gave it up: {reason}")
        letters = [NewDeadLetter(one.record, one.epoch, _envelope(one.record), error) for one in chosen]
        numbers = dead_letters.set_aside(session, context.service, context.outbox, letters)
        bound.execute(*parked.forgetting_received(chosen))
        context.outbox.write(session)
        maintenance.decided(
            bound,
            "parked give-up",
            str(source),
            {"key": printable(key), "offset": chosen[0].record.offset, "records": len(chosen)},
            {"dead_letter": numbers[0], "dead_letters": len(numbers), "reason": reason},
        )
    return numbers


def _refuse_held(context: Context, key: ParkedKey) -> None:
    if key.dead_letter is not None:
        raise CommandFailed(
            f"the key waits for a decision about dead letter {key.dead_letter}: "
            f"{context.command(f'dead-letters redrive {key.dead_letter}')}, or dismiss it; then the others go on"
        )


def _input(context: Context, source: str) -> Input:
    found = re.fullmatch(r"(.+)\[([0-9]{1,10})\]", source)
    if found is None:
        raise CommandFailed(
            f"{source} is not an input, '<topic>[<partition>]'; the topics are "
            f"{', '.join(context.service.consumed_topics)}"
        )
    return Input(found[1], int(found[2]))


def _envelope(record: Record) -> Envelope | None:
    try:
        return events.envelope(record.key, record.value, record.headers)
    except Malformed:
        return None


def _named(record: Record) -> dict[str, str | None]:
    found = dict(record.headers or ())
    return {
        name: None if (held := found.get(header)) is None else held.decode(errors="replace")
        for name, header in (("event", "ce_type"), ("event_id", "ce_id"))
    }


def _facts(key: ParkedKey) -> dict[str, Any]:
    return {
        "from": str(key.input),
        "key": _text(key.key),
        "records": key.records,
        "bytes": key.size,
        "offset": key.offset,
        "epoch": key.epoch,
        "event": key.header("ce_type"),
        "event_id": key.header("ce_id"),
        "attempts": key.attempts,
        "oldest_seconds": round(key.oldest_seconds, 1),
        "due_seconds": None if key.due_seconds is None else round(max(key.due_seconds, 0.0), 1),
        "dead_letter": key.dead_letter,
        "error": key.error,
        "detail": key.detail,
    }


@overload
def _bytes(key: str) -> bytes: ...
@overload
def _bytes(key: None) -> None: ...
def _bytes(key: str | None) -> bytes | None:
    """Return a key as it was typed; it may be no text."""
    return None if key is None else key.encode(errors="surrogateescape")


def _text(key: bytes) -> str:
    return printable(key.decode(errors="backslashreplace"))
