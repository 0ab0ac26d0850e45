"""What waits for a decision, or for a better version of the service: dead letters, parked keys, stuck calls."""

from collections.abc import Iterator

from sqlalchemy import text

from ...calls import queue
from ..output import age
from .case import Case
from .findings import Finding, ok, warning
from .sections import CALLS, DEAD_LETTERS, KEYS

COUNTED_MAX = 10_000
"""Rows that are counted: more of them change nothing."""

PARKED_SECONDS = 60.0
"""A `Retry` for something that is back soon is over by then."""

_LETTERS = text("""
    SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(set_aside_at)), 0) FROM (
        SELECT set_aside_at FROM exactly_once_dead_letter WHERE redriven_at IS NULL AND dismissed_at IS NULL
        ORDER BY id LIMIT :most
    ) AS oldest
""")

_PARKED = text("""
    SELECT count(DISTINCT (topic, partition, key_hash)),
           coalesce(extract(epoch FROM clock_timestamp() - min(parked_at)), 0)
    FROM (SELECT topic, partition, key_hash, parked_at FROM exactly_once_parked LIMIT :most) AS counted
""")


def dead_letters(case: Case) -> Iterator[Finding]:
    """The dead letters that wait for somebody."""
    with case.engine.connect() as opened, opened.begin():
        count, seconds = opened.execute(_LETTERS, {"most": COUNTED_MAX}).one()
    if not count:
        yield ok("no dead letter waits")
        return
    yield warning(
        f"{_many(count, 'dead letter')} to decide about, the oldest waits for {age(float(seconds))}",
        f"{case.command('dead-letters list')} tells why; then redrive or dismiss them",
        DEAD_LETTERS,
    )


def parked_keys(case: Case) -> Iterator[Finding]:
    """The keys whose records wait in the database, while all others go on."""
    with case.engine.connect() as opened, opened.begin():
        count, seconds = opened.execute(_PARKED, {"most": COUNTED_MAX}).one()
    seen = f"{_many(count, 'key')} to try again, the oldest waits for {age(float(seconds))}"
    if count and seconds > PARKED_SECONDS:
        yield warning(seen, f"{case.command('parked list')} tells for what", KEYS)
    else:
        yield ok(seen if count else "no key is parked")


def stuck_calls(case: Case) -> Iterator[Finding]:
    """The calls at which the service's own code fails."""
    with case.engine.connect() as opened, opened.begin():
        found = queue.waiting(opened)
    for one in found:
        seen = f"{_many(one.calls, 'call')} to {one.destination}, the oldest waits for {age(one.oldest_seconds)}"
        if one.stuck:
            yield warning(
                f"{seen}; of {one.stuck:,} the service's own code fails at the answer: stuck",
                f"{case.command('calls list --stuck')} tells why; a corrected version of the service finishes them, or "
                "an operator gives them up",
                CALLS,
            )
        else:
            yield ok(f"{seen}; none is stuck")
    if not found:
        yield ok("no call waits")


def _many(count: int, what: str) -> str:
    if count >= COUNTED_MAX:
        return f"{count:,} {what}s or more"
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"
