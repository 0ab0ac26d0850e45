"""`dead-letters dismiss`: an operator decides that records which were set aside will never be handled.

They stay in the table for DEAD_LETTER_RETENTION_HOURS, and no longer count as waiting. The decision keeps the reason.
"""

from collections.abc import Sequence

from sqlalchemy import text

from ..errors import CommandFailed
from ..postgres import parked
from . import maintenance
from .maintenance import Context
from .output import echo

IDS_MAX = 1_000
"""Ids of dead letters that a decision keeps; beyond that it keeps only their number. Each dead letter names its
decision.
"""

_WHICH = """
    redriven_at IS NULL AND dismissed_at IS NULL
    AND (cardinality(CAST(:ids AS bigint[])) = 0 OR id = ANY(:ids))
    AND (CAST(:topic AS text) IS NULL OR topic = :topic) AND (CAST(:error AS text) IS NULL OR error = :error)
"""
_COUNT = text(f"SELECT count(*), min(id), max(id) FROM exactly_once_dead_letter WHERE {_WHICH}")  # noqa: S608 - constants
# Later arrivals are not what the operator was asked about.
_LOCK = text(f"SELECT id FROM exactly_once_dead_letter WHERE {_WHICH} AND id <= :last ORDER BY id FOR UPDATE")  # noqa: S608
_DISMISS = text("""
    UPDATE exactly_once_dead_letter SET dismissed_at = clock_timestamp(), dismissed_by = :decision WHERE id = ANY(:ids)
""")


def dismiss(
    context: Context,
    numbers: Sequence[int],
    *,
    topic: str | None,
    error: str | None,
    every: bool,
    reason: str,
    yes: bool,
) -> bool:
    """Dismiss dead letters by number, or all waiting ones of a topic or with an error; False if one of `numbers` does
    not wait. Raises `CommandFailed`.
    """
    if bool(numbers) + bool(topic or error) + every != 1:
        raise CommandFailed("name the dead letters: by ID, or by --topic and --error, or all with --all")
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why these records will never be handled")
    chosen = {"ids": sorted(set(numbers)), "topic": topic, "error": error}
    with context.engine.connect() as connection:
        with connection.begin():
            count, _, last = connection.execute(_COUNT, chosen).one()
        if not count:
            echo("no such dead letter waits")
            return not numbers
        maintenance.confirm(f"dismiss {count:,} dead letters? They will not be handled.", yes=yes)
        with connection.begin():
            gone = list(connection.execute(_LOCK, {**chosen, "last": last}).scalars())
            if not gone:  # they were decided while the operator was asked
                echo("no such dead letter waits")
                return not numbers
            before = {name: value for name, value in chosen.items() if value}
            after = {"reason": reason, "number": len(gone), "letters": gone[:IDS_MAX]}
            decision = maintenance.decided(connection, "dead-letters dismiss", "dead letters", before, after)
            connection.execute(_DISMISS, {"ids": gone, "decision": decision})
            parked.release(connection, gone)
    echo(f"{len(gone):,} dead letters dismissed by decision {decision}")
    missed = sorted(set(numbers) - set(gone))
    if missed:
        echo(f"not waiting, or unknown: {', '.join(map(str, missed))}")
    return not missed
