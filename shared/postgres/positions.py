"""Positions: the next offset (what has been handled) is a row in PostgreSQL; the published position is a committed
offset in Kafka.

Neither is ever taken from the other system. This module has the rows of next offsets; `protocol.verdicts` compares the
two systems.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, text

from ..protocol.ports import Input, Position
from .ahead import Statement

_SELECT = """
    SELECT position.topic, position.partition, next_offset, epoch
    FROM exactly_once_position AS position
        JOIN unnest(CAST((SELECT :topics) AS text[]), CAST(:partitions AS int[])) AS wanted (topic, partition)
         ON position.topic = wanted.topic AND position.partition = wanted.partition
    ORDER BY position.topic, position.partition
"""
_READ = text(_SELECT)
_LOCK = text(_SELECT + " FOR UPDATE OF position")

# greatest(): a worker that stalled cannot move it back later.
_ADVANCE = text("""
    UPDATE exactly_once_position AS position SET next_offset = greatest(position.next_offset, handled.next_offset)
    FROM unnest(CAST((SELECT :topics) AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
         AS handled (topic, partition, next_offset)
    WHERE position.topic = handled.topic AND position.partition = handled.partition
""")

_START = text("""
    INSERT INTO exactly_once_position (topic, partition, next_offset)
    SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
    ON CONFLICT DO NOTHING
""")


def _names(inputs: Collection[Input]) -> dict[str, list[str] | list[int]]:
    return {"topics": [i.topic for i in inputs], "partitions": [i.partition for i in inputs]}


def found(rows: Iterable[Any]) -> dict[Input, Position]:
    """Return what `locking` finds."""
    return {Input(t, p): Position(h, epoch) for t, p, h, epoch in rows}


def locking(inputs: Collection[Input]) -> Statement:
    """Return the statement that locks the rows of `inputs` in name order."""
    return Statement(_LOCK, _names(inputs))


def lock(connection: Connection, inputs: Collection[Input]) -> dict[Input, Position]:
    """Lock the rows of `inputs` in name order."""
    return found(connection.execute(*locking(inputs)))


def read(connection: Connection, inputs: Collection[Input]) -> dict[Input, Position]:
    """Read the rows of `inputs`; missing ones are left out."""
    return found(connection.execute(_READ, _names(inputs)))


def advancing(positions: Mapping[Input, int]) -> Statement:
    """Return the statement that moves next offsets forward, never back."""
    return Statement(_ADVANCE, {**_names(positions.keys()), "offsets": list(positions.values())})


def advance(connection: Connection, positions: Mapping[Input, int]) -> None:
    """Move next offsets forward, never back."""
    connection.execute(*advancing(positions))


def start(connection: Connection, beginnings: Mapping[Input, int]) -> None:
    """Insert the rows of inputs that are consumed for the first time."""
    connection.execute(_START, {**_names(beginnings.keys()), "offsets": list(beginnings.values())})
