"""Stuck records: those at which the watchdog ended a process. The next process tries them alone, and sets them aside
if it would end again and again.

Each input has at most one. A process that is about to end writes it, on a separate session; the next offset shows
whether the record was handled since.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from sqlalchemy import Connection, text

from ..errors import HandlerStuck
from ..protocol.ports import Input, Record


class Stuck(NamedTuple):
    """A record at which processes ended."""

    offset: int
    ends: int
    error: HandlerStuck


_NOTE = text("""
    INSERT INTO exactly_once_stuck_record AS stuck_record (topic, partition, "offset", ends, detail, traceback)
    VALUES (:topic, :partition, :offset, 1, :detail, :traceback)
    ON CONFLICT (topic, partition) DO UPDATE SET
        ends = CASE WHEN stuck_record."offset" = excluded."offset" THEN stuck_record.ends + 1 ELSE 1 END,
        "offset" = excluded."offset", detail = excluded.detail, traceback = excluded.traceback,
        ended_at = clock_timestamp()
""")

_FORGET = text("""
    DELETE FROM exactly_once_stuck_record AS stuck_record USING exactly_once_position AS position
    WHERE position.topic = stuck_record.topic AND position.partition = stuck_record.partition
        AND position.next_offset > stuck_record."offset"
""")

_FORGET_INPUT = text("DELETE FROM exactly_once_stuck_record WHERE topic = :topic AND partition = :partition")

_READ = text('SELECT topic, partition, "offset", ends, detail, traceback FROM exactly_once_stuck_record')


def note(connection: Connection, record: Record, detail: str, traceback: str) -> None:
    """Note that this process ends at `record`."""
    place = {"topic": record.input.topic, "partition": record.input.partition, "offset": record.offset}
    connection.execute(_NOTE, {**place, "detail": detail, "traceback": traceback})


def forget(connection: Connection, inputs: Collection[Input]) -> None:
    """Delete the records of `inputs`."""
    for source in inputs:
        connection.execute(_FORGET_INPUT, {"topic": source.topic, "partition": source.partition})


def read(connection: Connection) -> Mapping[Input, Stuck]:
    """Delete records that were handled since; return the others."""
    connection.execute(_FORGET)
    found = {}
    for topic, partition, offset, ends, detail, traceback in connection.execute(_READ):
        error = HandlerStuck(f"the watchdog ended {ends} processes at it: {detail}")
        error.frames = f"{HandlerStuck.__name__}\n{traceback}"
        found[Input(topic, partition)] = Stuck(offset, ends, error)
    return found
