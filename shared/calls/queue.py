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

# The lock makes callers take turns, so that none of them counts what another is about to take.
_TURN = text("""
    SELECT extract(epoch FROM rate_at), extract(epoch FROM clock_timestamp()), (
        SELECT count(*) FROM exactly_once_call
        WHERE destination = :destination AND claimed_by IS NOT NULL AND due_at > (SELECT clock_timestamp())
    )
    FROM exactly_once_destination WHERE name = :destination FOR UPDATE
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

_HOLDS = text("SELECT EXISTS (SELECT FROM exactly_once_call WHERE id = :id AND lease = :lease)")

_FINISH = text("DELETE FROM exactly_once_call WHERE id = :id AND lease = :lease")

# Also one that is due in this snapshot: a caller may be about to put it off, and this waits for that.
_NEXT = text("""
    UPDATE exactly_once_call SET due_at = clock_timestamp()
    WHERE id = (SELECT id FROM exactly_once_call WHERE key = :key AND id > :id ORDER BY id LIMIT 1)
        AND claimed_by IS NULL
""")

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


def take(
    connection: Connection,
    destination: str,
    *,
    most: int,
    budget: Budget,
    seconds: float,
    caller: str,
    expired: bool = False,
) -> list[Due]:
    """Take up to `most` calls that are due, the first of their keys, for `seconds`; within the budget, if they are to
    be asked. With `expired`, only those whose deadline has passed, which are not asked.
    """
    wanted = {"destination": destination, "expired": expired}
    if not connection.execute(_ANY, wanted).scalar_one():
        return []
    rate_at, now, under_way = connection.execute(_TURN, wanted).one()
    if not expired:
        most = min(most, budget.concurrency - under_way)
    interval = 1 / budget.per_second if budget.per_second and not expired else 0.0
    rate_at, now = float(rate_at), float(now)
    if not now < rate_at <= now + 2 * max(1.0, interval):  # so far ahead only after the clock was set back
        rate_at = now
    if interval:
        # The bucket holds what comes in a second, and at least one.
        most = min(most, int((now + max(1.0, interval) - rate_at) / interval + 1e-6))
    if most <= 0:
        return []
    ids = list(connection.execute(_LOCK, {**wanted, "most": most}).scalars())
    if not ids:
        return []
    values = {"ids": ids, "seconds": seconds, "blocked": BLOCKED_SECONDS, "caller": caller}
    found = connection.execute(_TAKE, values).all()
    taken = sorted(Due(*row[1:]) for row in found if row[0])
    if interval and taken:
        connection.execute(_RATE, {"destination": destination, "rate_at": rate_at + interval * len(taken)})
    return taken


def holds(connection: Connection, due: Due) -> bool:
    """Whether nobody has taken the call since."""
    return bool(connection.execute(_HOLDS, {"id": due.id, "lease": due.lease}).scalar_one())


def finish(connection: Connection, due: Due) -> None:
    """Delete the call, and bring the next one of its key forward. Raises `Overtaken`."""
    if connection.execute(_FINISH, {"id": due.id, "lease": due.lease}).rowcount != 1:
        raise Overtaken
    # A statement of its own: it sees what was inserted while the one before waited.
    connection.execute(_NEXT, {"key": due.key, "id": due.id})


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
