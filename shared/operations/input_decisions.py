"""Decisions about an input: they set its next offset, and lower a committed offset that is above it."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, text

from ..errors import CommandFailed
from ..postgres import attempts, parked, positions, stuck_records
from ..protocol.ports import Input
from .maintenance import Choice, Maintenance, Plan
from .survey import InputState

# A recreated row has the epoch of its topic, so that event ids are the same as before.
_SET = text("""
    INSERT INTO exactly_once_position AS old (topic, partition, next_offset, epoch)
    VALUES (:topic, :partition, :new, (SELECT coalesce(max(epoch), 0) FROM exactly_once_position
        WHERE topic = :topic) + :raise)
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = :new, epoch = old.epoch + :raise
""")
_KNOWN = text("SELECT partition FROM exactly_once_position WHERE topic = :topic")
_BEGIN = text("""
    UPDATE exactly_once_position SET next_offset = :new, epoch = epoch + 1
    WHERE topic = :topic AND partition = :partition
""")


PARKED_MAX = 20_000
"""Parked records that a decision keeps, for `audit`: more than may be parked of one input by default."""


def plan(paused: Maintenance, choice: Choice, state: InputState, to: int | None) -> Plan | None:
    """Plan a decision about an input; None if there is nothing to decide."""
    source, span = state.source, state.span
    if span is None:
        raise CommandFailed(f"{source} does not exist in Kafka")
    old = None if state.position is None else state.position.next_offset
    if state.disagreement(paused.service) is None and to is None:
        return None
    if state.beyond_the_end and (choice != "rewind" or to is not None):
        raise CommandFailed(
            f"{source}: the next offset is beyond the end of the topic, so other records will get the offsets from "
            f"{span.high} on; only {_command(paused, 'rewind', source)} makes sense"
        )
    if choice == "adopt":
        if state.committed is None:
            raise CommandFailed(f"{source}: Kafka has no committed offset to adopt; choose rewind or skip")
        new = state.committed.offset
        if not span.low <= new <= span.high:
            raise CommandFailed(f"{source}: Kafka's committed offset {new} is not in the topic; choose rewind or skip")
    elif choice == "rewind":
        new = _rewind(state, to)
        if new < span.low:
            raise CommandFailed(
                f"{source}: the records from {new} to {span.low} are gone; {_command(paused, 'skip', source)} goes on "
                f"after them, and with --to {span.low} nothing else is skipped"
            )
    else:
        new = _skip(state, to)
    committed = None if state.committed is None else state.committed.offset
    lowered = committed is not None and committed > new

    def carry_out(connection: Connection) -> None:
        found = positions.lock(connection, [source]).get(source)
        if found != state.position:
            raise CommandFailed(f"{source} was changed meanwhile; look again")
        parameters = {"topic": source.topic, "partition": source.partition, "new": new}
        connection.execute(_SET, {**parameters, "raise": int(state.beyond_the_end)})
        _forget_ends(connection, [source])

    before: dict[str, Any] = {"H": old, "committed": committed}
    if old is not None and committed is not None and committed > old and (waiting := _parked(paused, source)):
        before["parked"] = waiting  # this database knows them as parked: what was published since, it publishes again
    if state.position is not None:
        before["epoch"] = state.position.epoch  # shows `audit` what a rewind explains
    after: dict[str, Any] = {"H": new, "committed": new if lowered else committed}
    if state.beyond_the_end:
        after["epoch"] = state.position.epoch + 1 if state.position else 0
    means = _means(old, new, span.stable)
    return Plan(str(source), before, after, means, carry_out, lambda: lower(paused, {source: new}) if lowered else None)


def _parked(paused: Maintenance, source: Input) -> list[tuple[int, int]]:
    with paused.connection.begin():
        return parked.places(paused.connection, source, PARKED_MAX)


def _command(paused: Maintenance, choice: Choice, source: Input) -> str:
    return paused.context.command(f"positions {choice} --target '{source}'")


def _rewind(state: InputState, to: int | None) -> int:
    assert state.span is not None
    low, high = state.span.low, state.span.high
    next_offset = state.position.next_offset if state.position is not None else None
    if to is None:
        return low if next_offset is None else min(next_offset, high)
    highest = high if next_offset is None else next_offset
    if not low <= to <= highest:
        raise CommandFailed(f"{state.source}: rewind can go from {low} to {highest}; --to {to} is outside")
    return to


def _skip(state: InputState, to: int | None) -> int:
    assert state.span is not None
    low, high = state.span.low, state.span.high
    next_offset = state.position.next_offset if state.position is not None else low
    if to is None:
        return max(next_offset, low, state.committed.offset if state.committed else 0)
    if not max(next_offset, low) <= to <= high:
        raise CommandFailed(f"{state.source}: skip can go from {max(next_offset, low)} to {high}; --to {to} is outside")
    return to


def _means(old: int | None, new: int, end: int) -> str:
    if old is None or new < old:
        return f"The records from {new} to {end}, and later ones, are handled; those in the inbox have no second effect"
    if new > old:
        return f"The records from {old} to {new} are passed over; this service loses those that it has not handled"
    return f"The records from {new} on are handled. Events about them may be published twice, under the same ids"


def begin_again(paused: Maintenance, topic: str) -> dict[Input, int]:
    """Return where the inputs of a recreated topic begin."""
    with paused.connection.begin():
        known = [Input(topic, partition) for (partition,) in paused.connection.execute(_KNOWN, {"topic": topic})]
    spans = paused.group.spans(known)
    # A partition that the new topic does not have yet begins at 0.
    return {source: spans[source].low if source in spans else 0 for source in sorted(known)}


def begin_at(connection: Connection, moves: Mapping[Input, int]) -> None:
    """Set next offsets to the new beginnings, under a new epoch: offsets are reused, and ids are derived from them."""
    for source, new in moves.items():
        connection.execute(_BEGIN, {"topic": source.topic, "partition": source.partition, "new": new})
    _forget_ends(connection, moves)


def _forget_ends(connection: Connection, inputs: Collection[Input]) -> None:
    """Delete stuck records: after a decision, an offset may stand for another record."""
    attempts.forget(connection, inputs)
    stuck_records.forget(connection, inputs)


def lower(paused: Maintenance, moves: Mapping[Input, int]) -> None:
    """Lower committed offsets that exceed the next offset to it."""
    committed = paused.group.committed(list(moves), ())
    paused.group.lower(
        {source: new for source, new in moves.items() if source in committed and committed[source].offset > new}
    )
