"""`dead-letters dismiss`: an operator decides that records which were set aside will never be handled.

They stay in the table for DEAD_LETTER_RETENTION_HOURS, and no longer count as waiting. The decision keeps the reason.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

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
_COUNT = text(f"SELECT count(*), coalesce(max(id), 0) FROM exactly_once_dead_letter WHERE {_WHICH}")  # noqa: S608 - constants
_LATER = text(f"SELECT count(*) FROM exactly_once_dead_letter WHERE {_WHICH} AND id > :last")  # noqa: S608 - constants
# Later arrivals are not what the operator was asked about.
_LOCK = text(f"SELECT id FROM exactly_once_dead_letter WHERE {_WHICH} AND id <= :last ORDER BY id FOR UPDATE")  # noqa: S608
_DISMISS = text("""
    UPDATE exactly_once_dead_letter SET dismissed_at = clock_timestamp(), dismissed_by = :decision WHERE id = ANY(:ids)
""")


class Matching(NamedTuple):
    """Those that wait, of a topic or with an error."""

    number: int
    last: int
    """The highest id; 0 if none waits."""


def matching(connection: Connection, *, topic: str | None, error: str | None) -> Matching:
    """Count those that wait, of a topic or with an error."""
    return Matching(*connection.execute(_COUNT, {"ids": [], "topic": topic, "error": error}).one())


def later(connection: Connection, last: int, *, topic: str | None, error: str | None) -> int:
    """Count those that wait behind this id."""
    asked: dict[str, Any] = {"ids": [], "topic": topic, "error": error, "last": last}
    return int(connection.execute(_LATER, asked).scalar_one())


def dismiss(
    context: Context,
    numbers: Sequence[int],
    *,
    topic: str | None,
    error: str | None,
    every: bool,
    reason: str,
    yes: bool,
    last: int | None = None,
) -> bool:
    """Dismiss dead letters by number, or all waiting ones of a topic or with an error, up to the id `last` if somebody
    was asked before; False if one of `numbers` does not wait. Raises `CommandFailed`.
    """
    if bool(numbers) + bool(topic or error) + every != 1:
        raise CommandFailed("name the dead letters: by ID, or by --topic and --error, or all with --all")
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why these records will never be handled")
    chosen = {"ids": sorted(set(numbers)), "topic": topic, "error": error}
    with context.engine.connect() as connection:
        with connection.begin():
            count, highest = connection.execute(_COUNT, chosen).one()
        if not count:
            echo("no such dead letter waits")
            return not numbers
        maintenance.confirm(f"dismiss {count:,} dead letters? They will not be handled.", yes=yes)
        with connection.begin():
            gone = list(connection.execute(_LOCK, {**chosen, "last": highest if last is None else last}).scalars())
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
