"""Decisions about an input: they set its next offset, and lower a committed offset that is above it."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, text

from ..errors import CommandFailed
from ..postgres import attempts, positions, stuck_records
from ..protocol.ports import Input
from .maintenance import Choice, Maintenance, Plan
from .survey import InputState

# A recreated row has the epoch of its topic, so that event ids come out as they would have.
_SET = text("""
    INSERT INTO exactly_once_position AS old (topic, partition, next_offset, epoch)
    VALUES (:topic, :partition, :h, (SELECT coalesce(max(epoch), 0) FROM exactly_once_position
        WHERE topic = :topic) + :raise)
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = :h, epoch = old.epoch + :raise
""")
_KNOWN = text("SELECT partition FROM exactly_once_position WHERE topic = :topic")
_BEGIN = text("""
    UPDATE exactly_once_position SET next_offset = :h, epoch = epoch + 1 WHERE topic = :topic AND partition = :partition
""")


def plan(here: Maintenance, choice: Choice, state: InputState, to: int | None) -> Plan | None:
    """Plan a decision about an input; None if there is nothing to decide."""
    source, span = state.source, state.span
    if span is None:
        raise CommandFailed(f"{source} does not exist in Kafka")
    old = None if state.position is None else state.position.next_offset
    if state.disagreement(here.service) is None and to is None:
        return None
    if state.beyond_the_end and (choice != "rewind" or to is not None):
        raise CommandFailed(
            f"{source}: the next offset is beyond the end of the topic, so the offsets from {span.high} on will be "
            "given to other "
            f"records; only {_command(here, 'rewind', source)} makes sense"
        )
    if choice == "adopt":
        if state.committed is None:
            raise CommandFailed(f"{source}: Kafka has no committed offset to adopt; choose rewind or skip")
        h = state.committed.offset
        if not span.low <= h <= span.high:
            raise CommandFailed(f"{source}: Kafka's committed offset {h} is not in the topic; choose rewind or skip")
    elif choice == "rewind":
        h = _rewind(state, to)
        if h < span.low:
            raise CommandFailed(
                f"{source}: the records from {h} to {span.low} are gone; {_command(here, 'skip', source)} goes on "
                f"after them, and with --to {span.low} nothing else is skipped"
            )
    else:
        h = _skip(state, to)
    committed = None if state.committed is None else state.committed.offset
    lowered = committed is not None and committed > h

    def carry_out(connection: Connection) -> None:
        found = positions.lock(connection, [source]).get(source)
        if found != state.position:
            raise CommandFailed(f"{source} was changed meanwhile; look again")
        parameters = {"topic": source.topic, "partition": source.partition, "h": h}
        connection.execute(_SET, {**parameters, "raise": int(state.beyond_the_end)})
        _forget_ends(connection, [source])

    before: dict[str, Any] = {"H": old, "committed": committed}
    if state.position is not None:
        before["epoch"] = state.position.epoch  # shows `audit` what a rewind explains
    after: dict[str, Any] = {"H": h, "committed": h if lowered else committed}
    if state.beyond_the_end:
        after["epoch"] = state.position.epoch + 1 if state.position else 0
    means = _means(old, h, span.stable)
    return Plan(str(source), before, after, means, carry_out, lambda: lower(here, {source: h}) if lowered else None)


def _command(here: Maintenance, choice: Choice, source: Input) -> str:
    return here.context.command(f"positions {choice} --target '{source}'")


def _rewind(state: InputState, to: int | None) -> int:
    assert state.span is not None
    low, high = state.span.low, state.span.high
    h = state.position.next_offset if state.position is not None else None
    if to is None:
        return low if h is None else min(h, high)
    if not low <= to <= (high if h is None else h):
        raise CommandFailed(
            f"{state.source}: rewind can go from {low} to {high if h is None else h}; --to {to} is outside"
        )
    return to


def _skip(state: InputState, to: int | None) -> int:
    assert state.span is not None
    low, high = state.span.low, state.span.high
    h = state.position.next_offset if state.position is not None else low
    if to is None:
        return max(h, low, state.committed.offset if state.committed else 0)
    if not max(h, low) <= to <= high:
        raise CommandFailed(f"{state.source}: skip can go from {max(h, low)} to {high}; --to {to} is outside")
    return to


def _means(old: int | None, h: int, end: int) -> str:
    if old is None or h < old:
        return f"Handled from {h} to {end}, and on; what the inbox remembers takes no effect again"
    if h > old:
        return f"The records from {old} to {h} are passed over: what was not handled is lost here. Next is {h}"
    return f"Handled from {h} on. What is published about it may be published twice, under the same ids"


def begin_again(here: Maintenance, topic: str) -> dict[Input, int]:
    """Return where the inputs of a recreated topic begin."""
    with here.connection.begin():
        known = [Input(topic, partition) for (partition,) in here.connection.execute(_KNOWN, {"topic": topic})]
    spans = here.group.spans(known)
    # A partition that the new topic does not have yet begins at 0.
    return {source: spans[source].low if source in spans else 0 for source in sorted(known)}


def begin_at(connection: Connection, moves: Mapping[Input, int]) -> None:
    """Set next offsets to the new beginnings, under a new epoch: offsets are reused, and ids are derived from them."""
    for source, h in moves.items():
        connection.execute(_BEGIN, {"topic": source.topic, "partition": source.partition, "h": h})
    _forget_ends(connection, moves)


def _forget_ends(connection: Connection, inputs: Collection[Input]) -> None:
    """Delete stuck records: after a decision, an offset may stand for another record."""
    attempts.forget(connection, inputs)
    stuck_records.forget(connection, inputs)


def lower(here: Maintenance, moves: Mapping[Input, int]) -> None:
    """Lower committed offsets that exceed the next offset to it."""
    committed = here.group.committed(list(moves), ())
    here.group.lower({source: h for source, h in moves.items() if source in committed and committed[source].offset > h})
