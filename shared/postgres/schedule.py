"""Scheduled events: each waits under its name for its moment, and then becomes a row of the outbox.

The worker of a lane moves what is due in the transaction in which it claims, so the rest of the protocol knows rows of
the outbox alone. PostgreSQL's clock decides: `statement_timestamp()`, which an index can be searched for. A change of
the schedule and the move lock the same row, so one of both is first, and the other sees it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from ..scheduling import Change
from ..telemetry.gauges import Known
from .ahead import Statement

WAITING = Known(
    "exactly_once_schedule_waiting", "Events that wait for their moment, counted up to 100,000; absent if not known"
)
OVERDUE = Known(
    "exactly_once_schedule_overdue_seconds",
    "How long ago the oldest event became due that waits to be published; 0: none is late; absent if not known",
)
COUNTED_MAX = 100_000
"""Counting stops here: the rest changes nothing."""

NEAR_SECONDS = 2.0
"""A worker asks once a second when the next event is due. It is told of an earlier one that is nearer than this, twice
the longest wait between two questions.
"""

# All that wait are locked in the order of their names, so that two transactions never wait for each other.
_CANCEL = text("""
    WITH held AS MATERIALIZED (
        SELECT name FROM exactly_once_schedule WHERE name = ANY(:names) ORDER BY name FOR UPDATE
    ),
    gone AS (
        DELETE FROM exactly_once_schedule WHERE name = ANY(:cancelled) AND name = ANY(ARRAY(SELECT name FROM held))
    )
    SELECT name FROM held
""")

# What is due already goes straight to the outbox, where it is in order with what its key publishes from now on.
#
# `xmax` tells a row that took the place of another from a new one: only the former was locked by this transaction.
# The worker of a lane is notified if its next moment is now another one, and soon; `_INSERT` in outbox.py says what a
# notification costs.
_SCHEDULE = text("""
    WITH given AS MATERIALIZED (
        SELECT added.*, added.hash % (SELECT count(*) FROM exactly_once_lane) AS lane,
               coalesce(added.at, statement_timestamp() + make_interval(secs => added.seconds)) AS due
        FROM unnest(CAST(:names AS text[]), CAST(:ats AS timestamptz[]), CAST(:seconds AS float8[]),
                    CAST(:hashes AS bigint[]), CAST(:topics AS text[]), CAST(:keys AS text[]), CAST(:ids AS text[]),
                    CAST(:types AS text[]), CAST(:versions AS smallint[]), CAST(:data AS bytea[]),
                    CAST(:traceparents AS text[]))
             WITH ORDINALITY
             AS added (name, at, seconds, hash, topic, key, id, type, version, data, traceparent, nth)
    ),
    passed AS (
        DELETE FROM exactly_once_schedule AS waiting USING given
        WHERE waiting.name = given.name AND given.due <= statement_timestamp()
    ),
    published AS (
        INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data, traceparent)
        SELECT lane, topic, key, id, type, version, data, traceparent FROM given WHERE due <= statement_timestamp()
        ORDER BY due, nth
        RETURNING lane
    ),
    scheduled AS (
        INSERT INTO exactly_once_schedule AS waiting (
            name, due, lane, hash, topic, key, event_id, event_type, event_version, data, traceparent
        )
        SELECT name, due, lane, hash, topic, key, id, type, version, data, traceparent FROM given
        WHERE due > statement_timestamp()
        ORDER BY nth
        ON CONFLICT (name) DO UPDATE SET
            id = DEFAULT, due = excluded.due, lane = excluded.lane, hash = excluded.hash, topic = excluded.topic,
            key = excluded.key, event_id = excluded.event_id, event_type = excluded.event_type,
            event_version = excluded.event_version, data = excluded.data, traceparent = excluded.traceparent,
            scheduled_at = excluded.scheduled_at, cron = NULL
        RETURNING name, lane, due, xmax <> 0 AS replaced
    ),
    sooner AS (
        SELECT lane FROM published
        UNION
        SELECT lane FROM scheduled
        WHERE due < statement_timestamp() + make_interval(secs => :near) AND NOT EXISTS (
            SELECT FROM exactly_once_schedule AS first WHERE first.lane = scheduled.lane AND first.due <= scheduled.due
        )
    ),
    told AS MATERIALIZED (
        SELECT CAST(pg_notify(:channel, string_agg(CAST(lane AS text), ',')) AS text) AS nothing FROM sooner
        WHERE lane <> ALL (CAST(:here AS smallint[]))
        HAVING CASE WHEN count(*) > 0 THEN pg_try_advisory_xact_lock(:class, :notifying) ELSE FALSE END
    )
    SELECT name FROM scheduled WHERE replaced
    UNION ALL
    SELECT nothing FROM told
""")

# Nothing waits here: a row that another transaction has locked, to replace or cancel it, is left for the next time, and
# so are the later ones of its key. Rows are found by arrays of names: a join might read the whole table.
_MOVE = text("""
    WITH due AS MATERIALIZED (
        SELECT own.lane, first.*
        FROM unnest(CAST((SELECT :lanes) AS smallint[]), CAST(:limits AS int[])) AS own (lane, most)
        CROSS JOIN LATERAL (
            SELECT name, key, due, id FROM exactly_once_schedule AS waiting
            WHERE waiting.lane = own.lane AND waiting.due <= statement_timestamp()
                AND (waiting.cron IS NULL OR waiting.name = ANY(:recurring))
            ORDER BY due, id LIMIT own.most
        ) AS first
    ),
    locked AS MATERIALIZED (
        SELECT id FROM exactly_once_schedule
        WHERE name = ANY(ARRAY(SELECT name FROM due)) AND due <= statement_timestamp()
        FOR UPDATE SKIP LOCKED
    ),
    moved AS (
        DELETE FROM exactly_once_schedule WHERE name = ANY(ARRAY(
            SELECT name FROM (
                SELECT due.name, bool_and(locked.id IS NOT NULL)
                    OVER (PARTITION BY due.lane, due.key ORDER BY due.due, due.id) AS in_order
                FROM due LEFT JOIN locked USING (id)
            ) AS found
            WHERE in_order
        ))
        RETURNING *
    ),
    ready AS (
        INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data, traceparent)
        SELECT lane, topic, key, event_id, event_type, event_version, data, traceparent FROM moved ORDER BY due, id
    )
    SELECT name, due, statement_timestamp() FROM moved WHERE cron IS NOT NULL
""")


_TELL = text("SELECT pg_notify(:channel, :lanes)")
_LOOK = text("""
    SELECT (SELECT count(*) FROM (SELECT FROM exactly_once_schedule LIMIT :most) AS counted),
           (SELECT extract(epoch FROM clock_timestamp() - min(first.due)) FROM exactly_once_lane AS lane
            CROSS JOIN LATERAL (
                SELECT due FROM exactly_once_schedule AS waiting WHERE waiting.lane = lane.lane ORDER BY due LIMIT 1
            ) AS first)
""")


def look(connection: Connection) -> None:
    """Show how many events wait, and how late the next one is: an index look-up per lane, and COUNTED_MAX rows."""
    count, late = connection.execute(_LOOK, {"most": COUNTED_MAX}).one()
    WAITING.set(count)
    OVERDUE.set(max(float(late or 0), 0.0))


def telling(channel: str, lanes: Collection[int]) -> Statement:
    """Return the statement that wakes the workers of `lanes` on `channel`."""
    return Statement(_TELL, {"channel": channel, "lanes": ",".join(map(str, lanes))})


def changing(changes: Sequence[Change], columns: Callable[[Sequence[Any]], dict[str, Any]]) -> list[Statement]:
    """Return the statements that make `changes`. Their rows begin with the names under which an event was waiting.
    `columns` returns the parameters that insert events.
    """
    new = [change for change in changes if change.moment is not None]
    cancelled = [change.name for change in changes if change.moment is None]
    statements = [Statement(_CANCEL, {"names": [change.name for change in changes], "cancelled": cancelled})]
    if new:
        moments = [change.moment for change in new if change.moment is not None]
        values = {
            **columns([change.pending for change in new]),
            "names": [change.name for change in new],
            "ats": [moment.at for moment in moments],
            "seconds": [moment.seconds for moment in moments],
            "near": NEAR_SECONDS,
        }
        statements.append(Statement(_SCHEDULE, values))
    return statements


def moving(limits: Mapping[int, int], recurring: Sequence[str] = ()) -> Statement:
    """Return the statement that moves what is due in each lane, up to its limit, into the outbox; of recurring events
    only the given ones. Its rows are the runs of those.
    """
    values = {"lanes": list(limits), "limits": list(limits.values()), "recurring": list(recurring)}
    return Statement(_MOVE, values)
