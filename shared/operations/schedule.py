"""`schedule list | show | cancel | run-now`: events that wait for their moment.

Workers may be up: a command and a worker that moves what is due lock the same row, so one of both is first.
"""

from typing import Any

from sqlalchemy import Connection, text

from .. import trace_context
from ..errors import CommandFailed
from ..postgres import schedule
from ..postgres.outbox import CHANNEL
from . import maintenance
from .maintenance import Context
from .output import age, as_json, columns, echo

_ROW = """
    name, due, extract(epoch FROM due - clock_timestamp()) AS seconds, lane, topic, key, event_id, event_type,
    event_version, data, traceparent, cron, scheduled_at
"""
# The first of each lane, by the index, and then the first of these: there may be a million.
_LIST = text(f"""
    SELECT waiting.* FROM exactly_once_lane AS lane CROSS JOIN LATERAL (
        SELECT id, {_ROW} FROM exactly_once_schedule AS scheduled WHERE scheduled.lane = lane.lane
        ORDER BY due, id LIMIT :most
    ) AS waiting
    ORDER BY due, id LIMIT :most
""")  # noqa: S608 - constants
_FIND = text(f"SELECT {_ROW} FROM exactly_once_schedule WHERE name = :name")  # noqa: S608
# Only what was shown: it may have been replaced since.
_CANCEL = text("DELETE FROM exactly_once_schedule WHERE name = :name AND event_id = :event_id AND due = :due")
# A run of a recurring event comes again at its own moment, under its own id, so this one needs another.
_RUN_NOW = text("""
    UPDATE exactly_once_schedule SET due = statement_timestamp(), event_id = CASE WHEN cron IS NULL THEN event_id ELSE
        event_id || to_char(clock_timestamp() AT TIME ZONE 'UTC', '.YYYYMMDD"T"HH24MISSUS') END
    WHERE name = :name AND event_id = :event_id AND due = :due
""")


def listed(connection: Connection, most: int) -> list[dict[str, Any]]:
    """Return the facts of what is due next."""
    return [_facts(row) for row in connection.execute(_LIST, {"most": most})]


def show_all(context: Context, *, most: int, json: bool) -> None:
    """List what is due next."""
    with context.engine.begin() as connection:
        found = listed(connection, most + 1)
    shown = found[:most]
    if json:
        as_json(shown)
        return
    columns(
        ("NAME", "DUE", "IN", "TYPE", "KEY", "EVENT ID"),
        [[f["name"], f["due"][:19], _in(f["seconds"]), f["type"], f["key"], f["id"]] for f in shown],
    )
    if len(found) > most:
        echo(f"... the next {most}; --limit shows more")


def show(context: Context, name: str, *, json: bool) -> None:
    """Show what is scheduled under a name."""
    with context.engine.begin() as connection:
        row = _find(connection, name)
    facts = {**_facts(row), "data": bytes(row.data).decode(errors="backslashreplace")}
    if json:
        as_json(facts)
        return
    for fact, value in facts.items():
        echo(f"{fact:12} {'-' if value is None else value}")


def cancel(context: Context, name: str, *, reason: str, yes: bool, event_id: str | None = None) -> None:
    """Cancel what is scheduled under a name, if given only the event of this id: it is never published."""
    with context.engine.begin() as connection:
        row = _find(connection, name, event_id)
    maintenance.confirm(f"{_words(row)} will never be published; cancel it?", yes=yes)
    with context.engine.begin() as connection:
        _decide(connection, _CANCEL, row, "schedule cancel", {"reason": reason, "cancelled": True})
    echo(f"{name} is cancelled")


def run_now(context: Context, name: str, *, reason: str, yes: bool, event_id: str | None = None) -> None:
    """Make what is scheduled under a name due now, if given only the event of this id."""
    with context.engine.begin() as connection:
        row = _find(connection, name, event_id)
    maintenance.confirm(f"{_words(row)} will be published now; go on?", yes=yes)
    with context.engine.begin() as connection:
        _decide(connection, _RUN_NOW, row, "schedule run-now", {"reason": reason, "due": "now"})
        connection.execute(*schedule.telling(CHANNEL, [row.lane]))
    echo(f"{name} is due now; the worker of lane {row.lane} publishes it")


def _find(connection: Connection, name: str, event_id: str | None = None) -> Any:
    row = connection.execute(_FIND, {"name": name.replace("\0", "")}).one_or_none()
    if row is None:
        raise CommandFailed(f"nothing is scheduled as {name}: it has become due, was cancelled, or never was")
    if event_id not in (None, row.event_id):
        raise CommandFailed(f"{name} was replaced meanwhile; look again")
    return row


def _decide(connection: Connection, change: Any, row: Any, command: str, after: dict[str, Any]) -> None:
    found = {"name": row.name, "event_id": row.event_id, "due": row.due}
    if not connection.execute(change, found).rowcount:
        raise CommandFailed(f"{row.name} has become due, was cancelled or was replaced meanwhile; look again")
    before = {"event_id": row.event_id, "type": row.event_type, "key": row.key, "due": row.due.isoformat()}
    maintenance.decided(connection, command, row.name, before, after)


def _words(row: Any) -> str:
    return f"{row.event_type} {row.event_id}, due {row.due.isoformat(timespec='seconds')} as {row.name},"


def _in(seconds: float) -> str:
    return f"late by {age(-seconds)}" if seconds < 0 else str(age(seconds))


def _facts(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "due": row.due.isoformat(),
        "seconds": round(float(row.seconds), 3),
        "type": f"{row.event_type}.v{row.event_version}",
        "key": row.key,
        "topic": row.topic,
        "id": row.event_id,
        "lane": row.lane,
        "bytes": len(row.data),
        "scheduled": row.scheduled_at.isoformat(),
        "cron": row.cron,
        **trace_context.named(row.traceparent),
    }
