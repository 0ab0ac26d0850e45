"""The inbox: the ids of received events, so that a duplicate has no effect.

It guards against producers that are not exactly-once and against the client's gap that KAFKA-17754 describes. Its
window is INBOX_RETENTION_HOURS: a duplicate that arrives later takes effect again.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ..orm.bulk import Array
from ..protocol.ports import Arrival
from .ahead import Statement

_RECEIVE = text("""
    INSERT INTO exactly_once_inbox (source, event_id) VALUES (:source, :id) ON CONFLICT DO NOTHING RETURNING TRUE
""")

# What is below the next offset was handled, or set aside: then it has to stay out of the inbox until it is redriven.
_RECEIVE_NEXT = text("""
    INSERT INTO exactly_once_inbox (source, event_id)
    SELECT arrived.source, arrived.id
    FROM unnest(CAST((SELECT :sources) AS text[]), CAST(:ids AS text[]), CAST(:inputs AS int[]),
                CAST(:offsets AS bigint[]))
         AS arrived (source, id, input, "offset")
    JOIN unnest(CAST((SELECT :topics) AS text[]), CAST(:partitions AS int[]))
         WITH ORDINALITY AS named (topic, partition, nth)
        ON named.nth = arrived.input + 1
    JOIN exactly_once_position AS position
        ON position.topic = named.topic AND position.partition = named.partition
    WHERE arrived."offset" >= position.next_offset
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


def receiving(arrivals: Sequence[Arrival]) -> Statement:
    """Return the statement that inserts the (source, event id) pairs of `arrivals` at or above the next offsets of
    their inputs, which are locked. It returns the new ones.
    """
    inputs = {source: number for number, source in enumerate(dict.fromkeys(arrival.input for arrival in arrivals))}
    return Statement(
        _RECEIVE_NEXT,
        {
            "sources": Array(arrival.source for arrival in arrivals),
            "ids": Array(arrival.event_id for arrival in arrivals),
            "inputs": [inputs[arrival.input] for arrival in arrivals],
            "offsets": [arrival.offset for arrival in arrivals],
            "topics": [source.topic for source in inputs],
            "partitions": [source.partition for source in inputs],
        },
    )


def receive(connection: Connection, source: str, event_id: str) -> bool:
    """Insert one event, wherever it comes from; return whether it is new."""
    return connection.execute(_RECEIVE, {"source": source, "id": event_id}).one_or_none() is not None


def prune(connection: Connection, seconds: float, rows: int) -> int:
    """Delete up to `rows` events received more than `seconds` ago; return how many were deleted."""
    return connection.execute(_PRUNE, {"seconds": seconds, "rows": rows}).rowcount
