"""`decisions list`: the operators' decisions, newest last."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, text

from .maintenance import SHOWN, Context
from .output import as_json, columns, echo

VALUE_CHARACTERS_MAX = 400
"""Of a value that an edit keeps; `dead-letters show` has all of it."""

# An edit keeps up to a megabyte, and a list has a hundred decisions.
_CUT = """
    CASE WHEN length({0} ->> 'value') > :characters
        THEN jsonb_set({0}, '{{value}}', to_jsonb(left({0} ->> 'value', :characters) || '...')) ELSE {0} END
"""
_LIST = text(f"""
    SELECT id, decided_at, command, source, {_CUT.format("before")} AS before, {_CUT.format("after")} AS after
    FROM exactly_once_decision
    WHERE CAST(:source AS text) IS NULL OR source = :source ORDER BY id DESC LIMIT :most
""")  # noqa: S608 - constants


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
        for row in connection.execute(_LIST, {"source": source, "most": most, "characters": VALUE_CHARACTERS_MAX})
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


def in_words(facts: dict[str, Any], *, without: Collection[str] = ()) -> str:
    """Format facts as a line, who and why first; a long list as its length."""
    first = ("by", "reason")
    return ", ".join(
        f"{SHOWN.get(name, name)} "
        f"{f'({len(fact)})' if isinstance(fact, list) and len(fact) > 5 else 'none' if fact is None else fact}"
        for name, fact in sorted(facts.items(), key=lambda one: one[0] not in first)
        if name not in without
    )
