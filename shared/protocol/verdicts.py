"""Judge a disagreement between Kafka and PostgreSQL about a position.

Neither system is trusted about the other's position. Each error names both numbers and the command that decides.
"""

from enum import Enum

from ..configuration.program import program
from ..errors import DatabaseWentBack, KafkaWentBack, PositionMissing, RecordsLost
from .ports import REPORTED, Claim, Committed, Input, Position


class Comparison(Enum):
    """The meaning of a pair of positions."""

    AGREED = "the two systems agree"
    FIRST = "neither system knows of it yet"
    LOW = "Kafka's position is missing or too low; believed only when it is read after the row"


def _decide(service: str, source: Input | str, *choices: str) -> str:
    """Return the commands that decide, ready to type."""
    commands = [f"`{program(service)} positions {choice} --target '{source}'`" for choice in choices]
    return f"Decide with {' or '.join(commands)}; docs/operating.md says what each does"


def compare_input(service: str, source: Input, committed: Committed | None, position: Position | None) -> Comparison:
    """Compare the committed offset of an input, read first, with its row.

    Raises `DatabaseWentBack` or `PositionMissing`; each names both numbers and the command that decides.
    """
    if position is None:
        if committed is None:
            return Comparison.FIRST
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
            f"{source}: the database has handled up to {position.next_offset}, Kafka's committed offset is "
            f"{committed.offset}: {why}. `rewind` goes on where the database is and loses nothing; `skip` loses, here, "
            f"what lies between. {_decide(service, source, 'rewind', 'skip')}"
        )
    return Comparison.AGREED


def compare_reach(service: str, source: Input, position: int, low: int, high: int) -> None:
    """Compare the next offset with what the topic holds. Raises `RecordsLost` or `KafkaWentBack`."""
    if position < low:
        raise RecordsLost(
            f"{source}: the database has handled up to {position}, the topic begins at {low}: retention or a "
            f"tool removed records that were not handled. {_decide(service, source, 'skip')}"
        )
    if position > high:
        raise KafkaWentBack(
            f"{source}: the database has handled up to {position}, the topic ends at {high}: Kafka lost records that "
            f"were handled, by an unclean election or a restored broker. {_decide(service, source, 'rewind')}"
        )


def compare_lane(
    service: str, lane: int, published: Committed | None, claim: Claim | None, *, published_read_last: bool
) -> Comparison:
    """Compare the published position of a lane with its claim.

    A published position that is too high is trusted if read before the claim; one that is missing or too low, only if
    read after it (`published_read_last`). Raises `DatabaseWentBack`, `KafkaWentBack` or `PositionMissing`.
    """
    decide = _decide(service, f"lane-{lane}", "adopt", "rewind", "skip")
    if claim is None:
        raise PositionMissing(
            f"lane {lane}: Kafka has the published position {published.offset if published else 'none'}, the "
            "database has no row of this lane. "
            f"{decide}"
        )
    if published is None:
        if claim.position == 0:
            return Comparison.FIRST
        if not published_read_last:
            return Comparison.LOW
        raise PositionMissing(
            f"lane {lane}: the database has claimed batch {claim.position}, Kafka has no committed offset: it expired "
            f"or was deleted. {decide}"
        )
    if published.offset == claim.position - 1:
        return Comparison.AGREED
    if published.offset == claim.position and published.metadata == claim.claim_id:
        return Comparison.AGREED
    if published.offset >= claim.position:
        raise DatabaseWentBack(
            f"lane {lane}: Kafka has the published position {published.offset} of claim "
            f"{published.metadata or 'none'}, the database has batch "
            f"{claim.position} of claim {claim.claim_id or 'none'}: the database is an older state, or a tool set "
            f"this offset of the group. `adopt` asks the topics, and loses and repeats nothing. {decide}"
        )
    if not published_read_last:
        return Comparison.LOW
    raise KafkaWentBack(
        f"lane {lane}: Kafka has the published position {published.offset}, the database has batch "
        f"{claim.position}: Kafka lost a commit, "
        "or a tool set this offset of the group back. `adopt` asks the topics what was published. "
        f"{decide}"
    )
