"""Attempts: notes of what a process is about to handle, so that its successor knows which records may have killed it.

A segfault in an extension, the kernel's OOM killer and a handler that holds the GIL leave no time to report anything.
A process that loses its PostgreSQL session does not know why: perhaps the record crashed the server process. So a
process notes each batch that its predecessor may have been handling. The note is deleted in the transaction that moves
the next offset past the batch, and when the batch is rolled back. A note found later thus means that a process or
session was cut off: its records are tried in `PARTS` parts, each noted anew, until a record is alone; and a record that
was being tried alone `ENDS` times in a row is set aside.

An outside cause might kill each of them within the milliseconds of this record. A pause makes that unlikely: a process
runs for a while before it tries such a record again (`budgets.calm_seconds`). A cause that kills sooner never meets
the record.
"""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, text

from ..errors import ProcessEnded
from ..protocol.attempts import ENDS, Attempt
from ..protocol.ports import Input, Record
from .ahead import Statement

_BEGIN = text("""
    INSERT INTO exactly_once_attempt AS attempt (topic, partition, "offset", last, ends)
    SELECT * FROM unnest(
        CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]), CAST(:lasts AS bigint[]),
        CAST(:ends AS int[])
    )
    ON CONFLICT (topic, partition) DO UPDATE SET
        ends = CASE
            WHEN excluded.ends = 1 AND attempt.ends > 0 AND attempt."offset" = excluded."offset" THEN attempt.ends + 1
            ELSE excluded.ends
        END,
        "offset" = excluded."offset", last = excluded.last, begun_at = clock_timestamp()
""")

_FORGET = text("""
    DELETE FROM exactly_once_attempt AS attempt
        USING unnest(CAST(:topics AS text[]), CAST(:partitions AS int[])) AS done (topic, partition)
    WHERE attempt.topic = done.topic AND attempt.partition = done.partition
""")

_FORGET_PASSED = text("""
    DELETE FROM exactly_once_attempt AS attempt USING exactly_once_position AS position
    WHERE position.topic = attempt.topic AND position.partition = attempt.partition
        AND position.next_offset > attempt.last
""")

_READ = text("""
    SELECT topic, partition, "offset", last, ends, to_char(begun_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
    FROM exactly_once_attempt
""")


def begin(connection: Connection, records: Sequence[Record]) -> None:
    """Note that this process is about to handle `records`, those of an input in the order of their offsets."""
    spans: dict[Input, tuple[int, int]] = {}
    for record in records:
        spans[record.input] = spans.get(record.input, (record.offset, 0))[0], record.offset
    inputs = sorted(spans)
    connection.execute(
        _BEGIN,
        {
            **_names(inputs),
            "offsets": [spans[source][0] for source in inputs],
            "lasts": [spans[source][1] for source in inputs],
            "ends": [int(len(records) == 1)] * len(inputs),
        },
    )


def forgetting(inputs: Collection[Input]) -> Statement:
    """Return the statement that deletes the notes of `inputs`."""
    return Statement(_FORGET, _names(sorted(inputs)))


def forget(connection: Connection, inputs: Collection[Input]) -> None:
    """Delete the notes of `inputs`: their records were handled, or the process survived."""
    if inputs:
        connection.execute(*forgetting(inputs))


def read(connection: Connection) -> Mapping[Input, Attempt]:
    """Delete notes of what was handled since; return the others."""
    connection.execute(_FORGET_PASSED)
    return {
        Input(topic, partition): Attempt(offset, last, ends, ProcessEnded(_words(ends, begun_at)))
        for topic, partition, offset, last, ends, begun_at in connection.execute(_READ)
    }


def _words(ends: int, begun_at: str) -> str:
    return (
        f"{ends} times in a row, of {ENDS}, a process was killed, ran out of memory or crashed, or its session of "
        f"PostgreSQL ended, while it handled it alone, last from {begun_at} UTC on; no effect of it was committed. The "
        "kernel's log, the supervisor or PostgreSQL's log may tell why"
    )


def _names(inputs: Sequence[Input]) -> dict[str, list[object]]:
    return {"topics": [source.topic for source in inputs], "partitions": [source.partition for source in inputs]}
