"""Attempts: what a process is about to handle, noted before it does, so that the next one knows at what it was killed.

A segfault in an extension, the kernel's OOM killer and a handler that holds the GIL leave no time for last words; and
who loses the session of PostgreSQL does not know why: perhaps the record has ended the server's process. So a process
notes each batch that its predecessor may have had in its hands; in the transaction that moves the next offset past the
batch the note goes away, and when the batch is rolled back too. A note that is found later is therefore of a process or
a session that came to no end: its records are tried alone, and a record at which that happened `ENDS` times in a row,
alone, is set aside.

That something from outside killed them all, each within the milliseconds of this record, is made unlikely by a pause:
before it tries such a record again a process lives for a while (`budgets.calm_seconds`). Whoever kills faster never
gets to it.
"""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, text

from ..errors import ProcessEnded
from ..protocol.attempts import ENDS, Attempt
from ..protocol.ports import Input, Record

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


def forget(connection: Connection, inputs: Collection[Input]) -> None:
    """Forget what was noted of `inputs`: it was handled, or the process outlived it."""
    if inputs:
        connection.execute(_FORGET, _names(sorted(inputs)))


def read(connection: Connection) -> Mapping[Input, Attempt]:
    """Forget what was handled since, and return the others."""
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
