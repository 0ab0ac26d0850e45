"""`decisions list`: the operators' decisions, newest last."""

from typing import Any

from sqlalchemy import Connection, text

from .maintenance import SHOWN, Context
from .output import as_json, columns, echo

_LIST = text("""
    SELECT id, decided_at, command, source, before, after FROM exactly_once_decision
    WHERE CAST(:source AS text) IS NULL OR source = :source ORDER BY id DESC LIMIT :most
""")


def listed(connection: Connection, *, source: str | None, most: int) -> list[dict[str, Any]]:
    """Return the newest decisions, the newest first."""
    return [
        {
            "id": row.id,
            "decided_at": row.decided_at.isoformat(),
            "command": row.command,
            "source": row.source,
            "before": row.before,
            "after": row.after,
        }
        for row in connection.execute(_LIST, {"source": source, "most": most})
    ]


def show(context: Context, *, source: str | None, most: int, json: bool) -> None:
    """Print the newest decisions, all or those about one source."""
    with context.engine.begin() as connection:
        found = listed(connection, source=source, most=most + 1)
    shown = found[:most][::-1]
    if json:
        as_json(shown)
        return
    columns(
        ("ID", "DECIDED", "COMMAND", "SOURCE", "BEFORE", "AFTER"),
        [
            (d["id"], d["decided_at"][:19], d["command"], d["source"], in_words(d["before"]), in_words(d["after"]))
            for d in shown
        ],
    )
    if len(found) > most:
        echo(f"... the newest {most}; --limit shows more")


def in_words(facts: dict[str, Any]) -> str:
    """Format facts as a line; a long list as its length."""
    return ", ".join(
        f"{SHOWN.get(name, name)} "
        f"{f'({len(fact)})' if isinstance(fact, list) and len(fact) > 5 else 'none' if fact is None else fact}"
        for name, fact in facts.items()
    )
