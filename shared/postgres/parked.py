"""Parked records: they wait in a table, and all later ones of their key behind them (`shared.protocol.parking`).

The first row of a key says when it is due. It is chosen without a lock of its position, and its attempt is noted with a
later moment: if the process ends at it, it is not tried again at once, and whoever tries it then knows. It is deleted
under the lock of its position, in the transaction of its effects.

A dead letter that holds its key keeps its place here, without its value: it is due at infinity, so that it and those
behind it are never chosen, nor taken by a worker that chose them before. `release` deletes it.
"""

import base64
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ..orm.bulk import Array
from ..protocol.intake import BATCH_BYTES
from ..protocol.parking import size
from ..protocol.ports import Arrival, Input, NewParked, ParkedRecord, Record, Waiting
from ..telemetry.failures import describe, frames
from ..telemetry.gauges import Known
from .ahead import Statement

RECORDS = Known("exactly_once_parked_records", "Records that are parked, counted up to 100,000; absent if not known")
KEYS = Known("exactly_once_parked_keys", "Keys that have parked records; absent if not known")
OLDEST = Known(
    "exactly_once_parked_oldest_seconds", "Age of the oldest parked record; 0: none is parked; absent if not known"
)
COUNTED_MAX = 100_000
"""Counting stops here: the rest changes nothing."""

PAUSE_SECONDS = 0.1
"""Doubled for each attempt, the first one included; each pause is shortened by up to a half, to spread them."""

DOUBLINGS_MAX = 16
"""The longest pause is reached long before: 0.1 s doubled this often is 1.8 hours."""

_PAUSE = (
    f"make_interval(secs => least({PAUSE_SECONDS} * 2.0 ^ least(%s, {DOUBLINGS_MAX}), :longest) * (1 - random() / 2))"
)

# The first condition is asked once: an empty table costs no look-up for each key.
_HOLDING = text("""
    SELECT named.topic, named.partition, arrived.key
    FROM unnest(CAST((SELECT :inputs) AS int[]), CAST(:keys AS bytea[])) AS arrived (input, key)
    JOIN unnest(CAST((SELECT :topics) AS text[]), CAST(:partitions AS int[]))
         WITH ORDINALITY AS named (topic, partition, nth)
        ON named.nth = arrived.input + 1
    CROSS JOIN LATERAL (
        SELECT FROM exactly_once_parked AS parked
        WHERE parked.topic = named.topic AND parked.partition = named.partition
            AND parked.key_hash = sha256(arrived.key)
        LIMIT 1
    ) AS held
    WHERE EXISTS (SELECT FROM exactly_once_parked)
""")

# There is a row already only if an input was rewound to before a dead letter that holds its key.
_PARK = text(f"""
    INSERT INTO exactly_once_parked (
        topic, partition, epoch, "offset", key, value, source, event_id, headers, bytes, attempts, due, error, detail,
        traceback
    )
    SELECT topic, partition, epoch, "offset", key, value, source, event_id, headers, bytes, attempts,
           CASE WHEN aside THEN 'infinity' ELSE clock_timestamp() + {_PAUSE % "attempts"} END, error, detail, traceback
    FROM unnest(
        CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:epochs AS int[]), CAST(:offsets AS bigint[]),
        CAST(:keys AS bytea[]), CAST(:values AS bytea[]), CAST(:sources AS text[]), CAST(:ids AS text[]),
        CAST(:headers AS bytea[]), CAST(:bytes AS bigint[]),
        CAST(:attempts AS int[]), CAST(:errors AS text[]), CAST(:details AS text[]), CAST(:tracebacks AS text[]),
        CAST(:aside AS boolean[])
    ) AS new (
        topic, partition, epoch, "offset", key, value, source, event_id, headers, bytes, attempts, error, detail,
        traceback, aside
    )
    ON CONFLICT (topic, partition, key_hash, epoch, "offset") DO UPDATE SET
        value = excluded.value, source = excluded.source, event_id = excluded.event_id, headers = excluded.headers,
        bytes = excluded.bytes, attempts = excluded.attempts, due = excluded.due, error = excluded.error,
        detail = excluded.detail, traceback = excluded.traceback
""")  # noqa: S608 - constants

_RANKED = """
    ranked AS (
        SELECT parked.topic, parked.partition, key_hash, epoch, "offset", bytes, ends, parked_at,
               row_number() OVER of_key AS nth, first_value(due) OVER of_key AS due,
               NOT isfinite(max(parked.due) OVER of_key) AS held
        FROM exactly_once_parked AS parked
            JOIN unnest(CAST(:topics AS text[]), CAST(:partitions AS int[])) AS wanted (topic, partition)
             ON parked.topic = wanted.topic AND parked.partition = wanted.partition
        WINDOW of_key AS (PARTITION BY parked.topic, parked.partition, key_hash ORDER BY epoch, "offset")
    )
"""

_WAITING = text(f"""
    WITH {_RANKED}
    SELECT topic, partition, count(*), CAST(sum(bytes) AS bigint), count(*) FILTER (WHERE nth = 1),
           CAST(extract(epoch FROM clock_timestamp() - min(parked_at)) AS float8),
           coalesce(
               CAST(extract(epoch FROM min(due) FILTER (WHERE nth = 1 AND NOT held) - clock_timestamp()) AS float8),
               'infinity'
           )
    FROM ranked GROUP BY topic, partition
""")  # noqa: S608 - constants

_ACCEPTS = text("""
    SELECT NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = to_regclass('exactly_once_parked') AND conname = 'exactly_once_parked_not_yet'
    )
""")

# Key by key, one record of each before the second of any: a key with many holds up no other.
_NEXT = text(f"""
    WITH {_RANKED},
    due AS (SELECT * FROM ranked WHERE due <= clock_timestamp() AND NOT held),
    suspect AS (SELECT * FROM due WHERE nth = 1 AND ends > 0 ORDER BY due LIMIT 1),
    chosen AS (
        SELECT topic, partition, key_hash, epoch, "offset", ends FROM suspect
        UNION ALL
        SELECT topic, partition, key_hash, epoch, "offset", ends
        FROM (
            SELECT *, sum(bytes) OVER (ORDER BY nth, due, key_hash) - bytes AS bytes_before
            FROM (
                SELECT * FROM due WHERE NOT EXISTS (SELECT FROM suspect) ORDER BY nth, due, key_hash LIMIT :most
            ) AS first
        ) AS sized
        WHERE bytes_before < {BATCH_BYTES}
    )
    UPDATE exactly_once_parked AS parked SET
        due = clock_timestamp() + {_PAUSE % "parked.attempts + 1"},
        ends = CASE (SELECT count(*) FROM chosen) WHEN 1 THEN greatest(parked.ends, 1) + 1 ELSE 1 END
    FROM chosen
    WHERE parked.topic = chosen.topic AND parked.partition = chosen.partition AND parked.key_hash = chosen.key_hash
        AND parked.epoch = chosen.epoch AND parked."offset" = chosen."offset"
    RETURNING parked.topic, parked.partition, parked."offset", parked.key, parked.value, parked.headers, parked.epoch,
              parked.source, parked.event_id, parked.attempts, chosen.ends
""")  # noqa: S608 - constants

_NAMED = """
    unnest(
        CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:epochs AS int[]), CAST(:offsets AS bigint[]),
        CAST(:keys AS bytea[])
    ) AS named (topic, partition, epoch, "offset", key)
    WHERE parked.topic = named.topic AND parked.partition = named.partition AND parked.key_hash = sha256(named.key)
        AND parked.epoch = named.epoch AND parked."offset" = named."offset" AND isfinite(parked.due)
"""

_TAKE = text(f"""
    DELETE FROM exactly_once_parked AS parked USING {_NAMED}
        AND NOT EXISTS (
            SELECT FROM exactly_once_parked AS aside
            WHERE aside.topic = parked.topic AND aside.partition = parked.partition
                AND aside.key_hash = parked.key_hash AND NOT isfinite(aside.due)
                AND (aside.epoch, aside."offset") < (parked.epoch, parked."offset")
        )
    RETURNING parked.topic, parked.partition, parked.epoch, parked."offset"
""")  # noqa: S608 - constants

_WITHDRAW = text(f"UPDATE exactly_once_parked AS parked SET ends = 0 FROM {_NAMED}")  # noqa: S608 - constants

_AGAIN = text(f"""
    UPDATE exactly_once_parked AS parked SET ends = 0, due = clock_timestamp() FROM {_NAMED}
""")  # noqa: S608 - constants

_FAILED = text(f"""
    UPDATE exactly_once_parked AS parked SET
        ends = 0, attempts = attempts + 1, due = clock_timestamp() + {_PAUSE % "attempts + 1"},
        error = :error, detail = :detail, traceback = :traceback
    FROM {_NAMED}
""")  # noqa: S608 - constants


_LOOK = text("""
    SELECT count(*), count(DISTINCT (topic, partition, key_hash)),
           extract(epoch FROM clock_timestamp() - min(parked_at))
    FROM (SELECT topic, partition, key_hash, parked_at FROM exactly_once_parked LIMIT :most) AS counted
""")


def look(connection: Connection) -> None:
    """Show how many records and keys are parked, and the age of the oldest."""
    records, keys, seconds = connection.execute(_LOOK, {"most": COUNTED_MAX}).one()
    RECORDS.set(records)
    KEYS.set(keys)
    OLDEST.set(max(float(seconds or 0), 0.0))


# A dead letter is not received: `redrive` enters it, and finds out whether its event took effect meanwhile.
_FORGET_RECEIVED = text("""
    DELETE FROM exactly_once_inbox AS inbox
        USING unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS aside (source, event_id)
    WHERE inbox.source = aside.source AND inbox.event_id = aside.event_id
""")


def holding(arrivals: Sequence[Arrival]) -> Statement:
    """Return the statement that finds which keys of `arrivals` are held, once the positions are locked."""
    inputs = {source: number for number, source in enumerate(dict.fromkeys(arrival.input for arrival in arrivals))}
    keys = dict.fromkeys((inputs[arrival.input], arrival.key) for arrival in arrivals)
    return Statement(
        _HOLDING,
        {
            "inputs": [number for number, _ in keys],
            "keys": Array(key for _, key in keys),
            "topics": [source.topic for source in inputs],
            "partitions": [source.partition for source in inputs],
        },
    )


def held(rows: Iterable[Any]) -> set[tuple[Input, bytes]]:
    """Return what `holding` finds."""
    return {(Input(topic, partition), bytes(key)) for topic, partition, key in rows}


def parking(parked: Sequence[NewParked], longest: float, encoding: str) -> Statement:
    """Return the statement that inserts `parked`, whose first attempts come after a pause of at most `longest` s."""
    records = [one.record for one in parked]
    told = [_told(one.error, encoding) if one.error is not None else (None, None, None) for one in parked]
    return Statement(
        _PARK,
        {
            **_places((record, one.epoch) for record, one in zip(records, parked, strict=True)),
            "values": Array(record.value for record in records),
            "sources": [one.source for one in parked],
            "ids": [one.event_id for one in parked],
            "headers": Array(map(_headers, records)),
            "bytes": [size(record) for record in records],
            "attempts": [int(one.error is not None) for one in parked],
            "errors": [error for error, _, _ in told],
            "details": [detail for _, detail, _ in told],
            "tracebacks": [traceback for _, _, traceback in told],
            "aside": [one.aside for one in parked],
            "longest": longest,
        },
    )


def taking(parked: Sequence[ParkedRecord]) -> Statement:
    """Return the statement that deletes the rows of `parked`; it returns where those are from that were there."""
    return Statement(_TAKE, _places((one.record, one.epoch) for one in parked))


def waiting(connection: Connection, inputs: Collection[Input]) -> dict[Input, Waiting] | None:
    """Return what is parked of `inputs`; None if the table does not accept rows yet."""
    if not connection.execute(_ACCEPTS).scalar_one():
        return None
    rows = connection.execute(_WAITING, _names(inputs))
    return {Input(topic, partition): Waiting(*counted) for topic, partition, *counted in rows}


def choose(connection: Connection, inputs: Collection[Input], most: int, longest: float) -> list[ParkedRecord]:
    """Choose records that are due, and note their attempt."""
    rows = connection.execute(_NEXT, {**_names(inputs), "most": most, "longest": longest})
    return sorted(map(_parked, rows), key=lambda one: (one.record.input, one.epoch, one.record.offset))


def withdraw(connection: Connection, noted: Sequence[ParkedRecord]) -> None:
    """Withdraw the notes of attempts that this process outlived."""
    if noted:
        connection.execute(_WITHDRAW, _places((one.record, one.epoch) for one in noted))


def tried(
    connection: Connection, again: Sequence[ParkedRecord], failed: ParkedRecord | None, error: Exception, longest: float
) -> None:
    """Withdraw the notes of an attempt: `again` are due now, `failed` after a pause, and with its error."""
    if again:
        connection.execute(_AGAIN, _places((one.record, one.epoch) for one in again))
    if failed is not None:
        name, detail, traceback = _told(error, encoding(connection))
        facts = {"error": name, "detail": detail, "traceback": traceback, "longest": longest}
        connection.execute(_FAILED, {**_places([(failed.record, failed.epoch)]), **facts})


def encoding(connection: Connection) -> str:
    """Return Python's name of the encoding of the connection: not every database has all characters."""
    raw: Any = connection.connection.dbapi_connection
    return str(raw.info.encoding)


def forgetting_received(parked: Sequence[ParkedRecord]) -> Statement:
    """Return the statement that deletes the events of `parked` from the inbox."""
    return Statement(
        _FORGET_RECEIVED, {"sources": [one.source for one in parked], "ids": [one.event_id for one in parked]}
    )


def _parked(row: Any) -> ParkedRecord:
    topic, partition, offset, key, value, kept, *facts = row
    return ParkedRecord(Record(Input(topic, partition), offset, key, value, _pairs(kept)), *facts)


def _told(error: Exception, encoding: str) -> tuple[str, str, str]:
    name, detail = describe(error)
    return tuple(  # type: ignore[return-value]
        part.encode(encoding, errors="backslashreplace").decode(encoding) for part in (name, detail, frames(error))
    )


def _places(records: Iterable[tuple[Record, int]]) -> dict[str, Any]:
    found = list(records)
    return {
        "topics": [record.input.topic for record, _ in found],
        "partitions": [record.input.partition for record, _ in found],
        "epochs": [epoch for _, epoch in found],
        "offsets": [record.offset for record, _ in found],
        "keys": Array(record.key or b"" for record, _ in found),
    }


def _names(inputs: Collection[Input]) -> dict[str, list[Any]]:
    return {"topics": [source.topic for source in inputs], "partitions": [source.partition for source in inputs]}


def _headers(record: Record) -> bytes:
    pairs = [(name, None if held is None else base64.b64encode(held).decode()) for name, held in record.headers or ()]
    return json.dumps(pairs).encode()


def _pairs(kept: bytes) -> list[tuple[str, bytes | None]]:
    return [(name, None if held is None else base64.b64decode(held)) for name, held in json.loads(kept)]


# ---- for operators


class ParkedKey(NamedTuple):
    """A key that waits, and its first record."""

    input: Input
    key: bytes
    records: int
    size: int
    """Bytes of all of them."""
    offset: int
    epoch: int
    attempts: int
    due_seconds: float | None
    """Until it is due; 0 or less: it is due; None: it is a dead letter, about which somebody has to decide."""
    oldest_seconds: float
    error: str | None
    detail: str | None
    traceback: str | None
    dead_letter: int | None
    """What holds it, if its first record is a dead letter."""
    headers: Sequence[tuple[str, bytes | None]]

    def header(self, name: str) -> str | None:
        """The text of a header; None if it has none."""
        found = dict(self.headers).get(name)
        return None if found is None else found.decode(errors="replace")


_KEYS = text("""
    SELECT first.topic, first.partition, first.key, counted.records, counted.bytes, first."offset", first.epoch,
           first.attempts,
           CASE WHEN isfinite(first.due) THEN CAST(extract(epoch FROM first.due - clock_timestamp()) AS float8) END,
           CAST(extract(epoch FROM clock_timestamp() - counted.since) AS float8),
           first.error, first.detail, first.traceback,
           CASE WHEN NOT isfinite(first.due) THEN (
               SELECT max(letter.id) FROM exactly_once_dead_letter AS letter
               WHERE letter.topic = first.topic AND letter.partition = first.partition
                   AND letter.epoch = first.epoch AND letter."offset" = first."offset"
           ) END,
           first.headers
    FROM (
        SELECT topic, partition, key_hash, count(*) AS records, CAST(sum(bytes) AS bigint) AS bytes,
               min(parked_at) AS since, min(ARRAY[epoch, "offset"]) AS place
        FROM exactly_once_parked
        WHERE (CAST(:topic AS text) IS NULL OR topic = :topic)
            AND (CAST(:partition AS int) IS NULL OR partition = :partition)
            AND (CAST(:key AS bytea) IS NULL OR key_hash = sha256(:key))
        GROUP BY topic, partition, key_hash
        ORDER BY min(parked_at) LIMIT :most
    ) AS counted
    JOIN exactly_once_parked AS first
        ON first.topic = counted.topic AND first.partition = counted.partition AND first.key_hash = counted.key_hash
            AND first.epoch = counted.place[1] AND first."offset" = counted.place[2]
    ORDER BY counted.since
""")

_BEHIND = text("""
    SELECT topic, partition, "offset", key, value, headers, epoch, source, event_id, attempts, ends
    FROM exactly_once_parked
    WHERE topic = :topic AND partition = :partition AND key_hash = sha256(:key)
    ORDER BY epoch, "offset" LIMIT :most
""")

_OF_LETTER = """
    held.topic = letter.topic AND held.partition = letter.partition AND held.key_hash = sha256(letter.key)
    AND held.epoch = letter.epoch AND held."offset" = letter."offset" AND NOT isfinite(held.due)
"""

_BEFORE = text(f"""
    SELECT earlier."offset"
    FROM exactly_once_dead_letter AS letter
    JOIN exactly_once_parked AS held ON {_OF_LETTER}
    JOIN exactly_once_parked AS earlier
        ON earlier.topic = held.topic AND earlier.partition = held.partition AND earlier.key_hash = held.key_hash
            AND (earlier.epoch, earlier."offset") < (held.epoch, held."offset")
    WHERE letter.id = :number
    ORDER BY earlier.epoch, earlier."offset" LIMIT 1
""")  # noqa: S608 - constants

_RELEASE = text(f"""
    DELETE FROM exactly_once_parked AS held USING exactly_once_dead_letter AS letter
    WHERE letter.id = ANY(:numbers) AND {_OF_LETTER}
""")  # noqa: S608 - constants

_TAKE_DUPLICATE = text("""
    DELETE FROM exactly_once_parked
    WHERE topic = :topic AND partition = :partition AND key_hash = sha256(:key)
        AND source = :source AND event_id = :event_id
""")

_PLACES = text("""
    SELECT epoch, "offset" FROM exactly_once_parked WHERE topic = :topic AND partition = :partition
    ORDER BY epoch, "offset" LIMIT :most
""")

_NOW = text("""
    UPDATE exactly_once_parked SET due = clock_timestamp()
    WHERE due > clock_timestamp() AND isfinite(due) AND (CAST(:topic AS text) IS NULL OR topic = :topic)
        AND (CAST(:partition AS int) IS NULL OR partition = :partition)
        AND (CAST(:key AS bytea) IS NULL OR key_hash = sha256(:key))
""")


def _which(source: Input | None, topic: str | None, key: bytes | None) -> dict[str, Any]:
    return {
        "topic": source.topic if source else topic,
        "partition": source.partition if source else None,
        "key": key,
    }


def keys(
    connection: Connection,
    *,
    source: Input | None = None,
    topic: str | None = None,
    key: bytes | None = None,
    most: int,
) -> list[ParkedKey]:
    """List keys that wait, the one that has waited longest first: all, of an input or a topic, or one."""
    rows = connection.execute(_KEYS, {**_which(source, topic, key), "most": most})
    return [
        ParkedKey._make((Input(topic, partition), bytes(key), *facts, _pairs(kept)))
        for topic, partition, key, *facts, kept in rows
    ]


def records(connection: Connection, source: Input, key: bytes, most: int) -> list[ParkedRecord]:
    """Return the first parked records of a key, in their order."""
    return list(map(_parked, connection.execute(_BEHIND, {**_which(source, None, key), "most": most})))


def places(connection: Connection, source: Input, most: int) -> list[tuple[int, int]]:
    """Return epoch and offset of up to `most` parked records of `source`."""
    return [
        (epoch, offset) for epoch, offset in connection.execute(_PLACES, {**_which(source, None, None), "most": most})
    ]


def retry_now(connection: Connection, *, source: Input | None, key: bytes | None) -> int:
    """Let what waits be due now; return how many records."""
    return connection.execute(_NOW, _which(source, None, key)).rowcount


def take(connection: Connection, parked: Sequence[ParkedRecord]) -> int:
    """Delete rows under the lock of their position; return how many there were."""
    return len(connection.execute(*taking(parked)).all())


def before(connection: Connection, number: int) -> int | None:
    """Return the offset of the first record that waits before a dead letter that holds its key; None if none does."""
    found: int | None = connection.execute(_BEFORE, {"number": number}).scalar()
    return found


def release(connection: Connection, numbers: Sequence[int]) -> None:
    """Let go of the keys that these dead letters hold: somebody has decided about them."""
    connection.execute(_RELEASE, {"numbers": list(numbers)})


def take_duplicate(connection: Connection, record: Record, source: str, event_id: str) -> bool:
    """Delete a parked duplicate of an event of a dead letter; return whether there was one."""
    facts = {"topic": record.input.topic, "partition": record.input.partition, "key": record.key}
    return connection.execute(_TAKE_DUPLICATE, {**facts, "source": source, "event_id": event_id}).rowcount > 0
