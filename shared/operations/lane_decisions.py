"""Decisions about a lane: its row always follows the published position; the question is which rows count as
published.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from ..errors import CommandFailed
from ..postgres import claim_log, outbox
from ..protocol.ports import Committed
from . import visible
from .maintenance import Choice, Maintenance, Plan
from .survey import LaneState

IDS_MAX = 1_000
"""Ids of deleted rows that a decision keeps; beyond that it keeps their number."""

DUPLICATES_MAX = 20_000
"""Rows that a decision keeps because they may be published twice, 2 MB; the audit cannot explain more
duplicates.
"""

_CLAIMED = "SELECT unnest(row_ids) FROM exactly_once_lane WHERE lane = :lane"
_NONE = "SELECT 0 WHERE false"

_CHOSEN = "SELECT event_id FROM exactly_once_outbox WHERE lane = :lane AND id IN ({}) ORDER BY id"
_KEPT = "SELECT event_id, key FROM exactly_once_outbox WHERE lane = :lane AND id NOT IN ({}) ORDER BY id LIMIT :most"
_DELETE = "DELETE FROM exactly_once_outbox WHERE lane = :lane AND id IN ({})"
_COUNT = text("SELECT count(*) FROM exactly_once_outbox WHERE lane = :lane")

_SET = text("""
    INSERT INTO exactly_once_lane (lane, position, claim_id, row_ids) VALUES (:lane, :position, :claim, '{}')
    ON CONFLICT (lane) DO UPDATE SET position = :position, claim_id = :claim, row_ids = '{}'
""")


def plan(paused: Maintenance, choice: Choice, state: LaneState) -> Plan | None:
    """Plan a decision about a lane; None if there is nothing to decide."""
    if state.disagreement(paused.service) is None:
        return None
    lane, claim = state.lane, state.claim
    new = at(state)
    chosen = {"rewind": _NONE, "skip": _CLAIMED, "adopt": visible.VISIBLE.format(lane)}[choice]
    if choice == "adopt":
        visible.look(paused, lane)
    with paused.connection.begin():
        gone = list(paused.connection.execute(text(_CHOSEN.format(chosen)), {"lane": lane}).scalars())
        rows = paused.connection.execute(_COUNT, {"lane": lane}).scalar_one()
        remembers: dict[str, Any] = {"event_ids": gone[:IDS_MAX]}
        if choice != "adopt":  # which leaves no row that a topic has
            kept = paused.connection.execute(text(_KEPT.format(chosen)), {"lane": lane, "most": DUPLICATES_MAX})
            remembers["may be said twice"] = [list(row) for row in kept]
    claimed = claim.rows if claim else 0

    def carry_out(connection: Connection) -> None:
        if outbox.lock_claims(connection, [lane]).get(lane) != claim:
            raise CommandFailed(f"lane-{lane} was changed meanwhile; look again")
        claim_log.take_back(connection, [lane])
        claim_log.count_as_published(connection, lane, new.offset, new.metadata, chosen)
        deleted = connection.execute(text(_DELETE.format(chosen)), {"lane": lane}).rowcount
        if deleted != len(gone):
            raise CommandFailed(f"lane-{lane} was changed meanwhile; look again")
        set_claim(connection, lane, new)

    before: dict[str, Any] = {
        "position": claim.position if claim else None,
        "claim": (claim.claim_id or None) if claim else None,
        "rows": rows,
        "P": state.published.offset if state.published else None,
    }
    after: dict[str, Any] = {
        "position": new.offset,
        "claim": new.metadata or None,
        "rows": rows - len(gone),
        "counted as said": len(gone),
    }
    means = {
        "rewind": (f"The {claimed} claimed rows are published with the others: twice, if Kafka has them already"),
        "skip": (
            f"{len(gone)} claimed rows count as published; if Kafka does not have them, no consumer will ever see them"
        ),
        "adopt": f"{len(gone)} rows were found in the topics and count as published; the others are published",
    }[choice]
    return Plan(f"lane-{lane}", before, after, means, carry_out, remembers=remembers)


def at(state: LaneState) -> Committed:
    """Return the position and claim id that agree with the published position. Without one the lane begins at 0, like
    a new one.

    Raises `CommandFailed` if something else committed the published position.
    """
    if state.published is None:
        return Committed(0, "")
    try:
        if state.published.metadata:
            UUID(state.published.metadata)
    except ValueError:
        raise CommandFailed(
            f"lane-{state.lane}: the published position carries {state.published.metadata!r}, which no worker wrote: "
            "something else commits for this group. Find it, and delete this committed offset"
        ) from None
    return state.published


def set_claim(connection: Connection, lane: int, position: Committed) -> None:
    """Set the row of `exactly_once_lane` to the published position, with no rows claimed."""
    connection.execute(_SET, {"lane": lane, "position": position.offset, "claim": position.metadata or None})
