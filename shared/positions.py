"""Positions: H, what has been handled, is a row of Postgres; P, what has been said, is a committed offset of Kafka.

Neither is ever believed from the other system. This module holds the rows of H, and the judgement of what the two
systems say.
"""

from collections.abc import Collection, Mapping
from enum import Enum

from sqlalchemy import Connection, text

from .errors import DatabaseWentBack, KafkaWentBack, PositionMissing, RecordsLost
from .ports import REPORTED, Claim, Committed, Input, Position
from .program import program

_SELECT = """
    SELECT position.topic, position.partition, next_offset, epoch
    FROM position JOIN unnest(CAST(:topics AS text[]), CAST(:partitions AS int[])) AS wanted (topic, partition)
         ON position.topic = wanted.topic AND position.partition = wanted.partition
    ORDER BY position.topic, position.partition
"""
_READ = text(_SELECT)
_LOCK = text(_SELECT + " FOR UPDATE OF position")

# greatest(): a worker that stalled before its turn cannot move H back.
_ADVANCE = text("""
    UPDATE position SET next_offset = greatest(position.next_offset, handled.next_offset)
    FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
         AS handled (topic, partition, next_offset)
    WHERE position.topic = handled.topic AND position.partition = handled.partition
""")

_START = text("""
    INSERT INTO position (topic, partition, next_offset)
    SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
    ON CONFLICT DO NOTHING
""")


def _names(inputs: Collection[Input]) -> dict[str, list[str] | list[int]]:
    return {"topics": [i.topic for i in inputs], "partitions": [i.partition for i in inputs]}


def lock(connection: Connection, inputs: Collection[Input]) -> dict[Input, Position]:
    """Lock the rows of `inputs` in name order."""
    return {Input(t, p): Position(h, epoch) for t, p, h, epoch in connection.execute(_LOCK, _names(inputs))}


def read(connection: Connection, inputs: Collection[Input]) -> dict[Input, Position]:
    """Read the rows of `inputs`; those that are missing are left out."""
    return {Input(t, p): Position(h, epoch) for t, p, h, epoch in connection.execute(_READ, _names(inputs))}


def advance(connection: Connection, positions: Mapping[Input, int]) -> None:
    """Move H forward, never back."""
    connection.execute(_ADVANCE, {**_names(positions.keys()), "offsets": list(positions.values())})


def start(connection: Connection, beginnings: Mapping[Input, int]) -> None:
    """Insert the rows of inputs that are consumed for the first time."""
    connection.execute(_START, {**_names(beginnings.keys()), "offsets": list(beginnings.values())})


class Verdict(Enum):
    """What a pair of positions means."""

    AGREED = "the two systems agree"
    FIRST = "neither system knows of it yet"
    LOW = "Kafka's position is missing or too low; believed only when it is read after the row"


def _decide(service: str, source: Input | str, *choices: str) -> str:
    """Name the commands that decide, as they are typed."""
    commands = [f"`{program(service)} positions {choice} --source '{source}'`" for choice in choices]
    return f"Decide with {' or '.join(commands)}; docs/operating.md says what each does"


def judge_input(service: str, source: Input, committed: Committed | None, position: Position | None) -> Verdict:
    """Compare the committed offset of an input, read first, with its row.

    Raises `DatabaseWentBack` or `PositionMissing`; each names both numbers and the command that decides.
    """
    if position is None:
        if committed is None:
            return Verdict.FIRST
        raise PositionMissing(
            f"{source}: Kafka has the committed offset {committed.offset}, the database has no position: the row was "
            "deleted, or the database is new"
            + ("" if committed.metadata == REPORTED else ", or another consumer committed in this group")
            + ". `rewind` loses nothing, and what the inbox remembers takes no effect again; `adopt` passes over all "
            f"below {committed.offset}. {_decide(service, source, 'rewind', 'adopt', 'skip')}"
        )
    if committed is not None and committed.offset > position.next_offset:
        if committed.metadata == REPORTED:
            why = "a worker of this service committed it, so the database is an older state: restored, or failed over"
        else:
            why = (
                "it has no mark of our workers, so either another consumer uses this group and committed it: stop that "
                "one, nothing is lost here; or an older release did, and the database is an older state"
            )
        raise DatabaseWentBack(
            f"{source}: the database has handled up to {position.next_offset}, Kafka was told {committed.offset}: "
            f"{why}. `rewind` goes on where the database is and loses nothing; `skip` loses, here, what lies between. "
            f"{_decide(service, source, 'rewind', 'skip')}"
        )
    return Verdict.AGREED


def judge_reach(service: str, source: Input, position: int, low: int, high: int) -> None:
    """Compare H with what the topic holds. Raises `RecordsLost` or `KafkaWentBack`."""
    if position < low:
        raise RecordsLost(
            f"{source}: the database has handled up to {position}, the topic begins at {low}: retention, or somebody "
            f"with a tool, removed records that were not handled. {_decide(service, source, 'skip')}"
        )
    if position > high:
        raise KafkaWentBack(
            f"{source}: the database has handled up to {position}, the topic ends at {high}: Kafka lost records that "
            f"were handled, by an unclean election or a restored broker. {_decide(service, source, 'rewind')}"
        )


def judge_lane(
    service: str, lane: int, said: Committed | None, claim: Claim | None, *, said_read_last: bool
) -> Verdict:
    """Compare P of a lane with its claim.

    "P too high" is believed when P was read before the claim; "missing or too low" only when it was read after it
    (`said_read_last`). Raises `DatabaseWentBack`, `KafkaWentBack` or `PositionMissing`.
    """
    decide = _decide(service, f"lane-{lane}", "adopt", "rewind", "skip")
    if claim is None:
        raise PositionMissing(
            f"lane {lane}: Kafka has P = {said.offset if said else 'none'}, the database has no row of this lane. "
            f"{decide}"
        )
    if said is None:
        if claim.position == 0:
            return Verdict.FIRST
        if not said_read_last:
            return Verdict.LOW
        raise PositionMissing(
            f"lane {lane}: the database has claimed batch {claim.position}, Kafka has no committed offset: it expired "
            f"or was deleted. {decide}"
        )
    if said.offset == claim.position - 1:
        return Verdict.AGREED
    if said.offset == claim.position and said.metadata == claim.claim_id:
        return Verdict.AGREED
    if said.offset >= claim.position:
        raise DatabaseWentBack(
            f"lane {lane}: Kafka has P = {said.offset} of claim {said.metadata or 'none'}, the database has batch "
            f"{claim.position} of claim {claim.claim_id or 'none'}: the database is an older state, or somebody set "
            f"this offset of the group with a tool. `adopt` asks the topics, and loses and repeats nothing. {decide}"
        )
    if not said_read_last:
        return Verdict.LOW
    raise KafkaWentBack(
        f"lane {lane}: Kafka has P = {said.offset}, the database has batch {claim.position}: Kafka lost a commit, "
        f"or somebody set this offset of the group back with a tool. `adopt` asks the topics what was said. {decide}"
    )
