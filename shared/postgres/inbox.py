"""The inbox: the ids of received events, so that a duplicate has no effect.

It guards against producers that are not exactly-once and against the client's gap that KAFKA-17754 describes. Its
window is INBOX_RETENTION_HOURS: a duplicate that arrives later takes effect again.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ..orm.bulk import Array

_RECEIVE = text("""
    INSERT INTO exactly_once_inbox (source, event_id)
    SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[]))
    ORDER BY 1, 2  -- two workers that insert the same ids meet them in the same order
    ON CONFLICT DO NOTHING
    RETURNING source, event_id
""")

_PRUNE = text("""
    DELETE FROM exactly_once_inbox WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM exactly_once_inbox
            WHERE handled_at < clock_timestamp() - make_interval(secs => :seconds) LIMIT :rows
    ))
""")


def receive(connection: Connection, ids: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Insert (source, event id) pairs; return the new ones."""
    if not ids:
        return set()
    rows = connection.execute(
        _RECEIVE, {"sources": Array(source for source, _ in ids), "ids": Array(event_id for _, event_id in ids)}
    )
    return {(source, event_id) for source, event_id in rows}


def prune(connection: Connection, seconds: float, rows: int) -> int:
    """Delete up to `rows` events received more than `seconds` ago; return how many were deleted."""
    return connection.execute(_PRUNE, {"seconds": seconds, "rows": rows}).rowcount
