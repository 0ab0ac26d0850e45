"""The claim log: the event ids of every claim, kept for AUDIT_RETENTION_HOURS, so that `audit` can compare them with
the topics.

A row is one claim, or the part of it that is for one topic. `shared.postgres.outbox` writes it in the statement that
makes the claim. Code that changes a claim afterwards calls one of these in the same transaction. Therefore:

- a row of an earlier claim of its lane is published: the next claim is made once the published position proves the
  last one;
- a row of the current claim is published if the published position is that of the claim, else it is being published.
"""

from collections.abc import Collection

from sqlalchemy import Connection, text

IDS_MAX = 10_000
"""Event ids per row when an operator counts rows as published, which may be a whole outbox."""

# The rows of the current claim are the lane's last. A published claim may have no outbox rows left, but is not taken
# back.
_TAKE_BACK = text("""
    DELETE FROM exactly_once_claimed AS entry USING (
        SELECT lane, claim_id, coalesce((
            SELECT max(id) FROM exactly_once_claimed AS earlier
            WHERE earlier.lane = lane.lane AND earlier.claim_id IS DISTINCT FROM lane.claim_id
        ), 0) AS before
        FROM exactly_once_lane AS lane WHERE lane = ANY(:lanes) AND row_ids <> '{}'
    ) AS present
    WHERE entry.lane = present.lane AND entry.id > present.before AND entry.claim_id = present.claim_id
""")

_CLAIMED = text("""
    INSERT INTO exactly_once_claimed (lane, position, claim_id, topic, events, event_ids)
    SELECT claimed.lane, claimed.position, claimed.claim_id, outbox.topic, count(*),
           array_agg(outbox.event_id ORDER BY outbox.id)
    FROM (SELECT lane, position, claim_id, unnest(row_ids) AS id FROM exactly_once_lane
        WHERE lane = ANY(:lanes)) AS claimed
    JOIN exactly_once_outbox AS outbox ON outbox.lane = claimed.lane AND outbox.id = claimed.id
    GROUP BY claimed.lane, claimed.position, claimed.claim_id, outbox.topic
""")

_COUNT_AS_PUBLISHED = """
    INSERT INTO exactly_once_claimed (lane, position, claim_id, topic, events, event_ids)
    SELECT :lane, :position, CAST(:claim_id AS uuid), topic, count(*), array_agg(event_id ORDER BY id)
    FROM (
        SELECT id, topic, event_id, (row_number() OVER (PARTITION BY topic ORDER BY id) - 1) / :most AS part
        FROM exactly_once_outbox WHERE lane = :lane AND id IN ({})
    ) AS chosen
    GROUP BY topic, part ORDER BY topic, part
"""

# The last row of a lane stays: it shows that nothing was claimed since. So what a lost database published is found on
# an idle lane too.
_PRUNE = text("""
    DELETE FROM exactly_once_claimed AS entry WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM exactly_once_claimed AS entry
            WHERE claimed_at < clock_timestamp() - make_interval(secs => :seconds)
            AND id < (SELECT max(last.id) FROM exactly_once_claimed AS last WHERE last.lane = entry.lane) LIMIT :rows
    ))
""")


def take_back(connection: Connection, lanes: Collection[int]) -> None:
    """Delete the current claims of `lanes`: their rows wait again, are claimed anew, or are counted as published."""
    connection.execute(_TAKE_BACK, {"lanes": sorted(lanes)})


def write(connection: Connection, lanes: Collection[int]) -> None:
    """Log the current claims of `lanes` after a change."""
    connection.execute(_CLAIMED, {"lanes": sorted(lanes)})


def count_as_published(connection: Connection, lane: int, position: int, claim_id: str, chosen: str) -> None:
    """Log the waiting rows that the query `chosen` selects as published at `position`, `IDS_MAX` per row of the log."""
    connection.execute(
        text(_COUNT_AS_PUBLISHED.format(chosen)),
        {"lane": lane, "position": position, "claim_id": claim_id or None, "most": IDS_MAX},
    )


def prune(connection: Connection, seconds: float, rows: int) -> int:
    """Delete up to `rows` claims made more than `seconds` ago; return how many were deleted."""
    return connection.execute(_PRUNE, {"seconds": seconds, "rows": rows}).rowcount
