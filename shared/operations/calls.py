"""`calls list | show | retry-now | give-up`: calls to third parties that are not finished.

All of it is safe while callers run. `give-up` takes the lease first, so that a caller that is just asking cannot commit
its answer afterwards; then one transaction publishes what the service publishes instead, finishes the call, and records
the decision.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from .. import trace_context
from ..calls.outbox import CallingOutbox
from ..calls.queue import Due, Overtaken
from ..calls.settling import Settling
from ..errors import CommandFailed
from ..telemetry.failures import LOGGED_MAX
from . import maintenance
from .dead_letters import first_line, on_one_line, readable
from .dismissing import IDS_MAX
from .maintenance import Context
from .output import age, as_json, echo, oldest

GIVING_UP_SECONDS = 60.0
"""How long nobody else may take the call: much longer than giving it up takes."""

_COLUMNS = """
    id, destination, key, call_id, call_type, call_version, decided_at, due_at, give_up_at, attempts,
    due_at > clock_timestamp() AND claimed_by IS NOT NULL AS asked_now, claimed_by, maybe_done, stuck, failure,
    (SELECT min(earlier.id) FROM exactly_once_call AS earlier WHERE earlier.key = due.key AND earlier.id < due.id)
        AS behind,
    extract(epoch FROM clock_timestamp() - decided_at) AS seconds
"""
_LIST = text(f"""
    SELECT {_COLUMNS} FROM exactly_once_call AS due
    WHERE (CAST(:destination AS text) IS NULL OR destination = :destination)
        AND (CAST(:key AS text) IS NULL OR key = :key) AND (NOT :stuck OR stuck)
    ORDER BY id LIMIT :most
""")  # noqa: S608 - constants
_ONE = text(f"SELECT {_COLUMNS}, data, traceparent FROM exactly_once_call AS due WHERE id = :id")  # noqa: S608

# What another transaction has just taken is being asked; it is not waited for.
_NOW = text("""
    UPDATE exactly_once_call SET due_at = clock_timestamp() WHERE id IN (
        SELECT id FROM exactly_once_call
        WHERE (:every OR id = ANY(:ids)) AND (claimed_by IS NULL OR due_at <= clock_timestamp())
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id
""")

_TAKE = text("""
    UPDATE exactly_once_call SET due_at = clock_timestamp() + make_interval(secs => :seconds), lease = lease + 1,
        claimed_by = 'an operator'
    WHERE id = :id AND NOT EXISTS (
        SELECT FROM exactly_once_call AS earlier WHERE earlier.key = exactly_once_call.key AND earlier.id < :id
    )
    RETURNING id, destination, key, call_id, call_type, call_version, data, traceparent, attempts, lease, maybe_done,
              TRUE AS stuck, FALSE AS expired, failure
""")


def listed(connection: Connection, most: int, *, stuck: bool = False) -> list[dict[str, Any]]:
    """Return the facts of calls that are not finished, the oldest first."""
    wanted = {"destination": None, "key": None, "stuck": stuck, "most": most}
    return [{**_facts(row), "seconds": float(row.seconds)} for row in connection.execute(_LIST, wanted)]


def show_all(context: Context, *, destination: str | None, key: str | None, stuck: bool, most: int, json: bool) -> None:
    """List calls that are not finished, the oldest first."""
    wanted = {"destination": destination, "key": key, "stuck": stuck, "most": most + 1}
    with context.engine.begin() as connection:
        found = connection.execute(_LIST, wanted).all()
    oldest(
        found,
        most,
        json=json,
        facts=_facts,
        heads=("ID", "TO", "CALL", "KEY", "AGE", "ASKED", "STATE", "LAST FAILURE"),
        cells=lambda row: (
            row.id,
            row.destination,
            f"{row.call_type}.v{row.call_version}",
            row.key,
            age(float(row.seconds)),
            _asked(row),
            _state(row),
            first_line(row.failure) if row.failure else None,
        ),
    )


def show(context: Context, number: int, *, json: bool) -> None:
    """Show one call with what is asked."""
    with context.engine.begin() as connection:
        row = connection.execute(_ONE, {"id": number}).one_or_none()
    if row is None:
        raise CommandFailed(f"there is no call {number}: it is finished, or never was")
    facts = {**_facts(row), **trace_context.named(row.traceparent), "call": readable(bytes(row.data))}
    if json:
        as_json(facts)
        return
    for name, fact in facts.items():
        echo(f"{name:12} {on_one_line(fact)}")


def retry_now(context: Context, numbers: Sequence[int], *, every: bool) -> bool:
    """Make calls due now; False if one of `numbers` is not waiting."""
    with context.engine.begin() as connection:
        found = set(connection.execute(_NOW, {"ids": list(numbers), "every": every}).scalars())
        if found:
            before = {"number": len(found), "ids": sorted(found)[:IDS_MAX]}
            maintenance.decided(connection, "calls retry-now", "calls", before, {})
    echo(f"{len(found):,} calls are due now; those behind another one of their key follow it")
    missed = sorted(set(numbers) - found)
    if missed:
        echo(f"finished, or just being asked: {', '.join(map(str, missed))}")
    return not missed


def give_up(context: Context, number: int, *, reason: str, publish_nothing: bool, yes: bool) -> None:
    """Give up one call; with `publish_nothing` also one that the service does not know. Raises `CommandFailed`."""
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why this call is given up")
    outbox = context.outbox
    if not isinstance(outbox, CallingOutbox):
        raise CommandFailed(f"{context.service.name} makes no calls")
    with context.engine.connect() as connection:
        with connection.begin():
            row = connection.execute(_ONE, {"id": number}).one_or_none()
        if row is None:
            raise CommandFailed(f"there is no call {number}: it is finished, or never was")
        if row.behind is not None:
            raise CommandFailed(f"call {row.behind} of the same key, {row.key}, comes first: give that up before")
        echo(f"call {number}: {row.call_type}.v{row.call_version} to {row.destination}, key {row.key}")
        echo(
            f"asked {_asked(row)} times; {row.destination} "
            f"{'may have done it' if row.maybe_done else 'has not got it'}; last failure: {row.failure or 'none'}"
        )
        what = "Nothing is" if publish_nothing else "What the service publishes instead is"
        maintenance.confirm(f"give up call {number}? {what} published.", yes=yes)
        with connection.begin():
            taken = connection.execute(_TAKE, {"id": number, "seconds": GIVING_UP_SECONDS}).one_or_none()
        if taken is None:
            raise CommandFailed(f"call {number} was finished meanwhile: nothing was changed")
        due = Due(*taken)
        decided: list[int] = []

        def record(bound: Any) -> None:
            before = {"id": due.id, "call_id": due.call_id, "attempts": due.attempts, "failure": due.failure}
            after = {"reason": reason, "maybe_done": due.maybe_done}
            after |= {"published": "nothing"} if publish_nothing else {}
            decided.append(maintenance.decided(bound, "calls give-up", due.destination, before, after))

        settling = Settling(context.engine, outbox, context.service.name, outbox.calls, finally_=record)
        try:
            outcome = settling.drop(due) if publish_nothing else settling.give_up(due, "operator", due.failure or "")
        except Overtaken:
            raise CommandFailed(f"call {number} was finished or taken meanwhile: nothing was changed") from None
    if outcome.ended != "given_up":
        raise CommandFailed(
            f"the service could not give it up; it waits as before: {outcome.detail[:LOGGED_MAX]}. Correct it; or, if "
            "nobody waits for what it would publish, add --publish-nothing"
        )
    echo(f"call {number} is given up by decision {decided[0]}")


def _asked(row: Any) -> str:
    """Say how often it was asked. An attempt at whose answer the service's own code fails is not counted."""
    return f"{max(row.attempts, 1)} or more" if row.stuck and row.maybe_done else str(row.attempts)


def _state(row: Any) -> str:
    if row.behind is not None:
        return f"behind {row.behind}"
    if row.asked_now:
        return f"asked by {row.claimed_by}"
    return "stuck" if row.stuck else "waits"


def _facts(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "to": row.destination,
        "type": f"{row.call_type}.v{row.call_version}",
        "key": row.key,
        "call_id": row.call_id,
        "state": _state(row),
        "decided_at": row.decided_at.isoformat(),
        "due_at": row.due_at.isoformat(),
        "give_up_at": row.give_up_at.isoformat(),
        "attempts": row.attempts,
        "maybe_done": row.maybe_done,
        "failure": row.failure,
    }
