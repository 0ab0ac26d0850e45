"""The calls that are due, as rows of PostgreSQL: taken with a lease, finished by whoever still has it.

A caller asks a third party outside of any transaction. So it takes a row for some seconds: `due_at` moves to the end of
the lease, and `lease`, a number that only grows, is raised. Whatever the caller writes later is conditional on that
number. If it died, the row is due again when the lease has run out; if it only stood still, what it writes changes
nothing, because another caller has raised the number. Only PostgreSQL's clock decides.

The calls of one key are made in the order of their ids. A row that is due behind another one of its key is put off, and
brought forward when that one is finished. All statements run in READ COMMITTED, each with a snapshot of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from ..errors import ExactlyOnceError
from ..postgres import ahead
from ..postgres.ahead import Statement

BLOCKED_SECONDS = 60.0
"""How long a call behind another one of its key is put off. What finishes that one brings it forward, so this is only
how long a mistake would last."""

FAILURE_MAX = 1_000
"""Characters kept of why an attempt failed."""


class Overtaken(ExactlyOnceError):
    """The lease ran out, and another caller or an operator has taken the call: this answer changes nothing."""


class Due(NamedTuple):
    """A call that this caller has taken."""

    id: int
    destination: str
    key: str
    call_id: str
    """The idempotency key: derived from the event or the request that caused the call."""
    call_type: str
    call_version: int
    data: bytes
    traceparent: str | None
    attempts: int
    """How often it was asked, this time included."""
    lease: int
    maybe_done: bool
    """Whether an earlier attempt may have reached the destination."""
    stuck: bool
    """Whether the service's own code failed at the last answer: then only an operator gives the call up."""
    expired: bool
    """Whether its deadline has passed; then it is not asked."""
    failure: str | None
    """Why the last attempt failed."""


class Budget(NamedTuple):
    """How much may be asked of a destination, by all callers of the service together."""

    concurrency: int
    per_second: float


_KNOW = text("INSERT INTO exactly_once_destination (name) VALUES (:name) ON CONFLICT DO NOTHING")

# A volatile function is no bound of an index; a subquery is evaluated once, and then is.
_ANY = text("""
    SELECT EXISTS (
        SELECT FROM exactly_once_call WHERE destination = :destination AND due_at <= (SELECT clock_timestamp())
            AND (NOT :expired OR give_up_at <= (SELECT clock_timestamp()) AND NOT stuck)
    )
""")

# The lock makes callers take turns. What others have taken is counted by a statement of its own, after it: one that has
# waited for a lock still counts what was there before.
_TURN = text("""
    SELECT extract(epoch FROM rate_at), extract(epoch FROM clock_timestamp())
    FROM exactly_once_destination WHERE name = :destination FOR UPDATE
""")

_UNDER_WAY = text("""
    SELECT count(*) FROM exactly_once_call
    WHERE destination = :destination AND claimed_by IS NOT NULL AND due_at > (SELECT clock_timestamp())
""")

_RATE = text("""
    UPDATE exactly_once_destination SET rate_at = to_timestamp(:rate_at) WHERE name = :destination
""")

_LOCK = text("""
    SELECT id FROM exactly_once_call
    WHERE destination = :destination AND due_at <= (SELECT clock_timestamp())
        AND (NOT :expired OR give_up_at <= (SELECT clock_timestamp()) AND NOT stuck)
    ORDER BY due_at, id LIMIT :most FOR UPDATE SKIP LOCKED
""")

# After `_LOCK`, with a snapshot of its own: whoever finished an earlier call of the key has committed, and is seen; or
# has not, and then waits for these locks before it brings this one forward.
_TAKE = text("""
    WITH looked AS (
        SELECT id, maybe_done, failure, stuck,
               give_up_at <= clock_timestamp() AND NOT stuck AS expired,
               NOT EXISTS (
                   SELECT FROM exactly_once_call AS earlier WHERE earlier.key = due.key AND earlier.id < due.id
               ) AS first
        FROM exactly_once_call AS due WHERE id = ANY(:ids)
    )
    UPDATE exactly_once_call AS due SET
        due_at = clock_timestamp() + make_interval(secs => CASE WHEN first THEN :seconds ELSE :blocked END),
        lease = lease + CASE WHEN first THEN 1 ELSE 0 END,
        attempts = attempts + CASE WHEN first AND NOT expired THEN 1 ELSE 0 END,
        maybe_done = due.maybe_done OR (first AND NOT expired),
        claimed_by = CASE WHEN first THEN :caller END
    FROM looked WHERE due.id = looked.id
    RETURNING first, due.id, destination, key, call_id, call_type, call_version, data, traceparent, attempts, lease,
              looked.maybe_done, looked.stuck, expired, looked.failure
""")

_HELD = text("""
    SELECT due.id FROM exactly_once_call AS due
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:leases AS bigint[])) AS held (id, lease) USING (id, lease)
""")

_FINISH = text("""
    DELETE FROM exactly_once_call AS due
    USING unnest(CAST(:ids AS bigint[]), CAST(:leases AS bigint[])) AS held (id, lease)
    WHERE due.id = held.id AND due.lease = held.lease
    RETURNING due.id
""")

# Also one that is due in this snapshot: a caller may be about to put it off, and this waits for that.
_NEXT = text("""
    UPDATE exactly_once_call SET due_at = clock_timestamp()
    FROM unnest(CAST(:ids AS bigint[]), CAST(:keys AS text[])) AS ended (id, key)
    CROSS JOIN LATERAL (
        SELECT id FROM exactly_once_call AS later WHERE later.key = ended.key AND later.id > ended.id
        ORDER BY later.id LIMIT 1
    ) AS next
    WHERE exactly_once_call.id = next.id AND claimed_by IS NULL
    RETURNING destination
""")

_LOCK_TIMEOUT = text("SELECT set_config('lock_timeout', :lock_timeout, true)")

# At its deadline a call is due in any case: to be given up.
_AGAIN = text("""
    UPDATE exactly_once_call SET
        due_at = CASE WHEN :stuck THEN clock_timestamp() + make_interval(secs => :seconds)
            ELSE least(clock_timestamp() + make_interval(secs => :seconds), give_up_at) END,
        attempts = :attempts, maybe_done = :maybe_done, failure = :failure, stuck = :stuck, claimed_by = NULL
    WHERE id = :id AND lease = :lease
""")


def know(connection: Connection, destination: str) -> None:
    """Make the row of a destination, unless it is there."""
    connection.execute(_KNOW, {"name": destination})


class Taken(NamedTuple):
    """What a look for due calls has brought."""

    calls: list[Due]
    more: bool
    """Whether others are due."""
    put_off: int = 0
    """How many were due, and are behind another one of their key."""


NOTHING = Taken([], more=False)


def take(
    connection: Connection,
    destination: str,
    *,
    most: int,
    budget: Budget,
    seconds: float,
    caller: str,
    expired: bool = False,
) -> Taken:
    """Take up to `most` calls that are due, the first of their keys, for `seconds`; within the budget, if they are to
    be asked. With `expired`, only those whose deadline has passed, which are not asked.
    """
    wanted = {"destination": destination, "expired": expired}
    turns = [Statement(_TURN, wanted), Statement(_UNDER_WAY, wanted)]
    [((rate_at, now),), ((under_way,),)] = ahead.execute(connection, turns)
    room = most if expired else min(most, budget.concurrency - under_way)
    interval = 1 / budget.per_second if budget.per_second and not expired else 0.0
    rate_at, now = float(rate_at), float(now)
    if not now < rate_at <= now + 2 * max(1.0, interval):  # so far ahead only after the clock was set back
        rate_at = now
    if interval:
        # The bucket holds what comes in a second, and at least one.
        room = min(room, int((now + max(1.0, interval) - rate_at) / interval + 1e-6))
    if room <= 0:
        return Taken([], more=True)
    [found] = ahead.execute(connection, [Statement(_LOCK, {**wanted, "most": room})])
    if not found:
        return NOTHING
    values = {"ids": [id_ for (id_,) in found], "seconds": seconds, "blocked": BLOCKED_SECONDS, "caller": caller}
    [rows] = ahead.execute(connection, [Statement(_TAKE, values)])
    taken = sorted(Due(*row[1:]) for row in rows if row[0])
    if interval and taken:
        connection.execute(_RATE, {"destination": destination, "rate_at": rate_at + interval * len(taken)})
    return Taken(taken, more=len(found) == room, put_off=len(rows) - len(taken))


def any_due(connection: Connection, destination: str, *, expired: bool = False) -> bool:
    """Whether a call is due: a look that locks nothing."""
    return bool(connection.execute(_ANY, {"destination": destination, "expired": expired}).scalar_one())


def hold(connection: Connection, calls: Sequence[Due], *, lock_ms: int | None = None) -> None:
    """Begin to write what became of `calls`. Raises `Overtaken` if another has taken one of them since. No statement of
    the transaction waits longer than `lock_ms` for a lock, if that is given.
    """
    limit = [Statement(_LOCK_TIMEOUT, {"lock_timeout": f"{lock_ms}ms"})] if lock_ms else []
    (*_, found) = ahead.execute(connection, [*limit, Statement(_HELD, _leases(calls))])
    if len(found) != len(calls):
        raise Overtaken


def finish(connection: Connection, calls: Sequence[Due], first: Sequence[Statement] = ()) -> frozenset[str]:
    """Execute `first`, delete the calls, and bring the next one of each key forward; return their destinations.
    Raises `Overtaken`.
    """
    # Each is a statement of its own: the last one sees what was inserted while the one before it waited.
    leases = _leases(calls)
    following = Statement(_NEXT, {"ids": leases["ids"], "keys": [due.key for due in calls]})
    (*_, ended, next_) = ahead.execute(connection, [*first, Statement(_FINISH, leases), following])
    if len(ended) != len(calls):
        raise Overtaken
    return frozenset(destination for (destination,) in next_)


def _leases(calls: Sequence[Due]) -> dict[str, list[int]]:
    return {"ids": [due.id for due in calls], "leases": [due.lease for due in calls]}


def again(
    connection: Connection,
    due: Due,
    *,
    seconds: float,
    failure: str,
    maybe_done: bool,
    stuck: bool = False,
    counted: bool = True,
) -> None:
    """Make the call due again in `seconds`. Raises `Overtaken`."""
    values = {
        "id": due.id,
        "lease": due.lease,
        "seconds": seconds,
        "failure": failure[:FAILURE_MAX].replace("\0", "\\0").encode(errors="backslashreplace").decode(),
        "maybe_done": maybe_done,
        "stuck": stuck,
        "attempts": due.attempts if counted else due.attempts - 1,
    }
    if connection.execute(_AGAIN, values).rowcount != 1:
        raise Overtaken


_WAITING = text("""
    SELECT destination, count(*), count(*) FILTER (WHERE stuck),
           coalesce(extract(epoch FROM clock_timestamp() - min(decided_at)), 0)
    FROM (SELECT destination, stuck, decided_at FROM exactly_once_call ORDER BY id LIMIT :most) AS oldest
    GROUP BY destination
""")

COUNTED_MAX = 100_000
"""Calls that a look counts; beyond that it only shows that there are so many."""


class Waiting(NamedTuple):
    """What waits for one destination."""

    destination: str
    calls: int
    stuck: int
    oldest_seconds: float


def waiting(connection: Connection) -> Sequence[Waiting]:
    """Count the calls that are not finished, by destination: of the oldest `COUNTED_MAX`."""
    rows = connection.execute(_WAITING, {"most": COUNTED_MAX})
    return [Waiting(name, int(calls), int(stuck), float(oldest)) for name, calls, stuck, oldest in rows]
