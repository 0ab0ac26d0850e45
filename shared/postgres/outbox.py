"""The outbox: events, committed together with the change that causes them, wait here until Kafka has them.

A row belongs to a lane, the share of the outbox that its key falls into. The claim of a lane names the rows that are
being published; see `shared.protocol.cycle` for the order in which all of this is committed.
"""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from uuid_utils import uuid7

from ..errors import NotOwned, Reject
from ..events import Event, encoded
from ..orm.bulk import Array
from ..protocol.ports import KEY_BYTES_MAX, Claim, OutboxRow
from ..scheduling import Change
from ..service import Service
from ..session import Session
from . import ahead, claim_log, schedule
from .ahead import Statement
from .slots import LOCK_CLASS

CHANNEL = "exactly_once_outbox"
"""Where workers listen for new rows (`shared.postgres.wakeup`). PostgreSQL's channels belong to one database."""

NOTIFYING = -3
"""The advisory lock of the one transaction that notifies. Slots are never negative; -1 and -2 are taken by housekeeping
and by an operator.
"""


class PendingEvent(NamedTuple):
    """An event that waits in the session for `Outbox.write`."""

    event: Event
    data: bytes
    topic: str
    key: str
    event_id: str
    traceparent: str | None


class Outbox:
    """Collects a service's events and writes them to the table."""

    def __init__(self, service: Service, event_bytes_max: int) -> None:
        self._service = service.name
        self._publishes = frozenset(service.publishes)
        self._event_bytes_max = event_bytes_max
        self.published_here: frozenset[int] = frozenset()
        """The lanes that this process publishes, so that its own rows in them wake nobody."""

    @property
    def event_bytes_max(self) -> int:
        """A larger event is refused by `write`."""
        return self._event_bytes_max

    def add(self, session: Session, event: Event, traceparent: str | None = None) -> str:
        """Publish `event`, made by a request, when the session's transaction commits; return its id.

        Raises `NotOwned` if its aggregate is neither locked nor new in `session`: only then is the order of its events
        the order of the commits. Raises `ValueError` if the event is not what its own type declares.
        """
        event_id = f"{self._service}:{uuid7()}"
        self.collect(session, event, event_id, traceparent)
        return event_id

    def schedule(self, session: Session, event: Event, change: Change, traceparent: str | None = None) -> str:
        """Publish `event`, made by a request, at the moment of `change`; return its id. Raises what `add` raises."""
        event_id = f"{self._service}:{uuid7()}"
        self.collect(session, event, event_id, traceparent, change)
        return event_id

    def collect(
        self, session: Session, event: Event, event_id: str, traceparent: str | None, change: Change | None = None
    ) -> None:
        """Keep `event` in the session under an id derived from its cause, for the moment of `change` if there is one.
        Raises what `add` raises.
        """
        name = type(event).__name__
        if type(event) not in self._publishes:
            raise TypeError(f"{self._service} does not publish {name}: add it to `publishes` of its Service")
        key = event.key
        if not key:
            raise ValueError(f"{name} has an empty key; it is the key of the aggregate that changed, and never empty")
        if not session.holds(key):
            raise NotOwned(
                f"{name} is published for {key!r}, which this session has neither locked nor created; lock it first"
            )
        pending = PendingEvent(event, encoded(event), event.topic, key, event_id, traceparent)
        if change is None:
            self.keep(session, pending)
        else:
            change.pending = pending
            session.changes[change.name] = change

    def keep(self, session: Session, pending: PendingEvent) -> None:
        """Keep an event, unchecked: one of the library's own concerns no aggregate."""
        session.collected.append(pending)

    def refuse_large(self, pending: Iterable[PendingEvent]) -> None:
        """Raise `Reject` for an event that is too large for Kafka."""
        for s in pending:
            if len(s.data) > self._event_bytes_max:
                raise Reject(
                    f"{type(s.event).__name__} {s.event_id} has {len(s.data)} bytes; EVENT_BYTES_MAX is "
                    f"{self._event_bytes_max}"
                )
            if len(s.key.encode()) > KEY_BYTES_MAX:
                raise Reject(
                    f"the key of {type(s.event).__name__} {s.event_id} has {len(s.key.encode())} bytes, more than "
                    f"{KEY_BYTES_MAX}"
                )

    def settle(self, session: Session) -> None:
        """Write the changes of the schedule at once, and tell each what it has found. Raises what `write` raises."""
        session.flush()
        changes = self._taken(session)
        (waited, *replaced) = ahead.execute(session.own_connection(), schedule.changing(changes, self._columns))
        found = {name for rows in (waited, *replaced) for name, *_ in rows}
        for change in changes:
            change.found = change.name in found

    def _taken(self, session: Session) -> list[Change]:
        """Take the changes of the schedule from the session, in their order."""
        changes = list(session.changes.values())
        self.refuse_large(change.pending for change in changes if change.moment is not None)
        session.changes = {}
        return changes

    def write(self, session: Session) -> int:
        """Flush the session, then insert the collected events in the order of publishing; return their number.

        The flush comes first: it takes the locks of new rows too, so ids of one key grow in the order of the commits.
        Raises `Reject` for an event that is too large for Kafka.
        """
        number = len(session.collected)
        for insert in self.insertion(session):
            session.connection().execute(*insert)
        return number

    def insertion(self, session: Session) -> list[Statement]:
        """Do as `write`, but return the statement that inserts, if there are events, for the caller to execute next."""
        session.flush()
        pending: list[PendingEvent] = session.collected
        session.collected = []
        changes = schedule.changing(self._taken(session), self._columns) if session.changes else []
        if not pending:
            return changes
        self.refuse_large(pending)
        return [Statement(_INSERT, self._columns(pending)), *changes]

    def _columns(self, pending: Sequence[PendingEvent]) -> dict[str, Any]:
        """Return the parameters of a statement that inserts `pending`."""
        return {
            "hashes": Array(lane_hash(s.key) for s in pending),
            "topics": Array(s.topic for s in pending),
            "keys": Array(s.key for s in pending),
            "ids": Array(s.event_id for s in pending),
            "types": Array(type(s.event).__name__ for s in pending),
            "versions": Array(s.event.version for s in pending),
            "data": Array(s.data for s in pending),
            "traceparents": Array(s.traceparent for s in pending),
            "here": sorted(self.published_here),
            "channel": CHANNEL,
            "class": LOCK_CLASS,
            "notifying": NOTIFYING,
        }


def lane_hash(key: str) -> int:
    """CRC32 of the key, librdkafka's `consistent` partitioner: a lane and the partitions of its records agree."""
    return zlib.crc32(key.encode())


# The number of lanes is read where the row is written: a process cannot have an outdated one.
#
# The worker of a lane in which no other row waits is notified, with the lanes as the payload. NOTIFY makes commits wait
# for each other, so a busy system must do without: while a row waits, that worker is awake or was notified of it, and
# while another transaction is about to notify, this one does not. A row that nobody is told of is found when that
# worker, awake, asks once more. (The statement does not see its own rows. A claim's last id is its highest: above it is
# only what waits. The subquery has a LIMIT, or the planner might read the whole table for a join.)
_INSERT = text("""
    WITH written AS (
        INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data, traceparent)
        SELECT added.hash % (SELECT count(*) FROM exactly_once_lane),
               added.topic, added.key, added.id, added.type, added.version, added.data, added.traceparent
        FROM unnest(CAST((SELECT :hashes) AS bigint[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                    CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:versions AS smallint[]),
                    CAST(:data AS bytea[]), CAST(:traceparents AS text[]))
             WITH ORDINALITY AS added (hash, topic, key, id, type, version, data, traceparent, nth)
        ORDER BY added.nth
        RETURNING lane
    ),
    asleep AS (
        SELECT lane.lane FROM exactly_once_lane AS lane
        WHERE lane.lane IN (SELECT lane FROM written) AND lane.lane <> ALL (CAST(:here AS smallint[])) AND (
            SELECT waiting.id FROM exactly_once_outbox AS waiting
            WHERE waiting.lane = lane.lane AND waiting.id > coalesce(lane.row_ids[cardinality(lane.row_ids)], 0)
            ORDER BY waiting.id DESC LIMIT 1
        ) IS NULL
    )
    SELECT pg_notify(:channel, string_agg(CAST(lane AS text), ',')) FROM asleep
    HAVING CASE WHEN count(*) > 0 THEN pg_try_advisory_xact_lock(:class, :notifying) ELSE FALSE END
""")

# NO KEY: an insert holds a key share lock of its lane until the commit. FOR UPDATE would wait for every open request,
# and two workers that insert rows into each other's lanes would deadlock.
_LOCK = text("""
    SELECT lane, position, claim_id, cardinality(row_ids) FROM exactly_once_lane
    WHERE lane = ANY(CAST((SELECT :lanes) AS smallint[])) ORDER BY lane FOR NO KEY UPDATE
""")

_READ = text(
    "SELECT lane, position, claim_id, cardinality(row_ids) FROM exactly_once_lane WHERE lane = ANY(:lanes) "
    "ORDER BY lane"
)

# More rows than the claims name: what a claim names is there until its list is emptied. Counted only so far, in the
# order of the index, or a plan from when the table was empty would read all of it. And how long until the next
# scheduled event is due: the first entry of an index.
_UNPUBLISHED = text("""
    SELECT named.rows < (
        SELECT count(*) FROM (
            SELECT FROM unnest(CAST((SELECT :lanes) AS smallint[])) AS own (lane)
            CROSS JOIN LATERAL (
                SELECT FROM exactly_once_outbox AS waiting WHERE waiting.lane = own.lane
                ORDER BY waiting.id LIMIT named.rows + 1
            ) AS of_lane
            LIMIT named.rows + 1
        ) AS first
    ), (
        SELECT CAST(extract(epoch FROM min(next.due) - statement_timestamp()) AS float8)
        FROM unnest(CAST((SELECT :lanes) AS smallint[])) AS own (lane)
        CROSS JOIN LATERAL (
            SELECT due FROM exactly_once_schedule AS waiting
            WHERE waiting.lane = own.lane AND (waiting.cron IS NULL OR waiting.name = ANY(:recurring))
            ORDER BY due LIMIT 1
        ) AS next
    )
    FROM (
        SELECT coalesce(sum(cardinality(row_ids)), 0) AS rows FROM exactly_once_lane
        WHERE lane = ANY(CAST((SELECT :lanes) AS smallint[]))
    ) AS named
""")

# The rows that the claims of some lanes name. They are found by an array of ids, then compared with the claims in a
# hash. Without IS TRUE that would be a join, for which a plan might read the whole table.
_NAMED = """lane = ANY(CAST((SELECT :lanes) AS smallint[]))
        AND id = ANY(ARRAY(
            SELECT unnest(row_ids) FROM exactly_once_lane WHERE lane = ANY(CAST((SELECT :lanes) AS smallint[]))
        ))
        AND ((lane, id) IN (
            SELECT lane, unnest(row_ids) FROM exactly_once_lane WHERE lane = ANY(CAST((SELECT :lanes) AS smallint[]))
        )) IS TRUE"""

_FORGET = text(f"""
    WITH emptied AS (
        UPDATE exactly_once_lane SET row_ids = '{{}}'
        WHERE lane = ANY(CAST((SELECT :lanes) AS smallint[])) AND row_ids <> '{{}}'
    )
    DELETE FROM exactly_once_outbox WHERE {_NAMED}
""")  # noqa: S608 - a constant

# The same statement logs the claim for `audit` (`shared.postgres.claim_log`). That must cost nothing, so the rare
# cases have branches of their own: more bytes than allowed, and several topics.
_CLAIM = text("""
    WITH next AS MATERIALIZED (
        SELECT wanted.lane, waiting.*,
               CASE WHEN bytes <= :bytes THEN cardinality(ids) ELSE (
                   SELECT count(*) FROM (
                       SELECT sum(size) OVER (ORDER BY id) - size AS bytes_before
                       FROM exactly_once_outbox AS outbox
                       CROSS JOIN LATERAL (SELECT octet_length(data) + coalesce(octet_length(traceparent), 0) AS size)
                       WHERE outbox.lane = wanted.lane AND outbox.id = ANY(ids)
                   ) AS sized
                   WHERE bytes_before < :bytes
               ) END AS rows
        FROM unnest(CAST((SELECT :lanes) AS smallint[]), CAST(:limits AS int[])) AS wanted (lane, most)
        CROSS JOIN LATERAL (
            SELECT array_agg(id ORDER BY id) AS ids, array_agg(event_id ORDER BY id) AS event_ids, sum(size) AS bytes,
                   min(topic) AS topic, max(topic) AS other_topic
            FROM (
                SELECT id, event_id, topic, octet_length(data) + coalesce(octet_length(traceparent), 0) AS size
                FROM exactly_once_outbox AS outbox WHERE outbox.lane = wanted.lane ORDER BY id LIMIT wanted.most
            ) AS first
        ) AS waiting
        WHERE ids IS NOT NULL
    ),
    made AS (
        UPDATE exactly_once_lane AS lane SET position = lane.position + 1, claim_id = gen_random_uuid(),
            row_ids = next.ids[1:next.rows]
        FROM next WHERE lane.lane = next.lane
        RETURNING lane.lane, lane.position, lane.claim_id, lane.row_ids
    ),
    written AS (
        INSERT INTO exactly_once_claimed (lane, position, claim_id, topic, events, event_ids)
        SELECT made.lane, made.position, made.claim_id, part.topic, part.events, part.event_ids
        FROM made JOIN next USING (lane)
        CROSS JOIN LATERAL (
            SELECT next.topic, next.rows AS events, next.event_ids[1:next.rows] AS event_ids
            WHERE next.topic = next.other_topic
            UNION ALL
            SELECT outbox.topic, count(*), array_agg(outbox.event_id ORDER BY outbox.id)
            FROM exactly_once_outbox AS outbox
            WHERE next.topic <> next.other_topic AND outbox.lane = made.lane AND outbox.id = ANY(made.row_ids)
            GROUP BY outbox.topic
        ) AS part
    )
    SELECT lane, position, claim_id, cardinality(row_ids) FROM made
""")

_CLAIM_LESS = text("""
    UPDATE exactly_once_lane AS lane SET claim_id = gen_random_uuid(), row_ids = row_ids[1:wanted.most]
    FROM unnest(CAST((SELECT :lanes) AS smallint[]), CAST(:limits AS int[])) AS wanted (lane, most)
    WHERE lane.lane = wanted.lane
    RETURNING lane.lane, lane.position, lane.claim_id, cardinality(lane.row_ids)
""")

_CLAIMED = text(f"""
    SELECT outbox.topic, outbox.key, outbox.event_id, outbox.event_type, outbox.event_version,
           to_char(outbox.decided_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           outbox.data, outbox.traceparent
    FROM exactly_once_outbox AS outbox WHERE {_NAMED} ORDER BY outbox.lane, outbox.id
""")  # noqa: S608 - a constant


def claims(rows: Iterable[Any]) -> dict[int, Claim]:
    """Return the claims in the rows of a statement."""
    return {lane: Claim(position, str(claim_id or ""), count) for lane, position, claim_id, count in rows}


def locking_claims(lanes: Collection[int]) -> Statement:
    """Return the statement that locks the claims of `lanes` in lane order; `claims` reads its rows."""
    return Statement(_LOCK, {"lanes": sorted(lanes)})


def lock_claims(connection: Connection, lanes: Collection[int]) -> dict[int, Claim]:
    """Lock the claims of `lanes` in lane order."""
    return claims(connection.execute(*locking_claims(lanes)))


def read_claims(connection: Connection, lanes: Collection[int]) -> dict[int, Claim]:
    """Read the claims of `lanes` without a lock."""
    return claims(connection.execute(_READ, {"lanes": sorted(lanes)}))


class Unpublished(NamedTuple):
    """What a worker learns of its lanes when it looks."""

    rows: bool
    """Whether they have any row that no claim names."""
    due_seconds: float | None
    """Until the next scheduled event is due, by PostgreSQL's clock; None: none is scheduled."""


def unpublished(connection: Connection, lanes: Collection[int], recurring: Sequence[str] = ()) -> Unpublished:
    """Return what waits in `lanes`; of recurring events only the given ones count."""
    values = {"lanes": sorted(lanes), "recurring": list(recurring)}
    return Unpublished._make(connection.execute(_UNPUBLISHED, values).one())


def forgetting(lanes: Collection[int]) -> Statement:
    """Return the statement that deletes the rows that the claims of `lanes` name; both of its parts see the claims as
    they were.
    """
    return Statement(_FORGET, {"lanes": sorted(lanes)})


def claiming(limits: Mapping[int, int], bytes_max: int) -> Statement:
    """Return the statement that claims the next rows of each lane: up to its limit, and up to `bytes_max` (one larger
    row is claimed alone). `claims` reads its rows.
    """
    return Statement(_CLAIM, {"lanes": list(limits), "limits": list(limits.values()), "bytes": bytes_max})


def claim_less(connection: Connection, limits: Mapping[int, int]) -> dict[int, Claim]:
    """Claim again only the first rows of each claim, at the same position and under a new claim id."""
    claim_log.take_back(connection, limits)
    found = claims(connection.execute(_CLAIM_LESS, {"lanes": list(limits), "limits": list(limits.values())}))
    claim_log.write(connection, found)
    return found


def reading(lanes: Collection[int]) -> Statement:
    """Return the statement that reads the claimed rows of `lanes` in id order within each lane; `rows` reads them."""
    return Statement(_CLAIMED, {"lanes": sorted(lanes)})


def rows(found: Iterable[Any]) -> list[OutboxRow]:
    """Return the claimed rows in those of a statement."""
    return list(map(OutboxRow._make, found))


def claimed(connection: Connection, lanes: Collection[int]) -> list[OutboxRow]:
    """Read the claimed rows of `lanes` in id order within each lane."""
    return rows(connection.execute(*reading(lanes)))
