"""The ledger compares two long lists, the claims and the topics' records, in little memory however long they are.

They are kept in a temporary SQLite database: SQLite holds a bounded part of it in memory, writes the rest to a private
file in TMPDIR, and removes it with the process, however that ends.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

CACHE_KILOBYTES = 32_000
"""SQLite's memory. With a fifth of it a million events, which fill 80 MB, took as long."""

INDEX_BITS = 16
"""A place is the id of a batch and an index in it; a batch has at most 65,536 events (CLAIM_ROWS is 50,000 at most)."""

_TABLES = """
    CREATE TABLE batch (id INTEGER PRIMARY KEY, lane, position, topic, claimed_at, sure);
    CREATE TABLE claim (hash INTEGER PRIMARY KEY, place INTEGER NOT NULL);
    CREATE TABLE record (
        part INTEGER, at INTEGER, hash INTEGER, key INTEGER, place INTEGER, id, time, lane, word, type,
        PRIMARY KEY (part, at)
    ) WITHOUT ROWID;
"""
# Only for an unknown record is more kept than numbers.
_RECORD = """
    INSERT OR IGNORE INTO record
    SELECT :part, :offset, :identity, :key, claim.place, iif(claim.place IS NULL, :event_id, NULL),
           iif(claim.place IS NULL, :time, NULL), iif(claim.place IS NULL, :lane, NULL),
           iif(claim.place IS NULL, :word, NULL), iif(claim.place IS NULL, :type, NULL)
    FROM (SELECT 1) LEFT JOIN claim ON claim.hash = :identity
"""
_SETTLE = """
    CREATE INDEX record_hash ON record (hash);
    CREATE TABLE twice AS SELECT hash FROM record GROUP BY hash HAVING count(*) > 1;
"""
_TWICE = """
    SELECT part, at, place, id, time, nth, first_part, first_at FROM (
        SELECT part, at, place, id, time, row_number() OVER same AS nth,
               first_value(part) OVER same AS first_part, first_value(at) OVER same AS first_at
        FROM record WHERE hash IN (SELECT hash FROM twice) WINDOW same AS (PARTITION BY hash ORDER BY part, at)
    ) WHERE nth > 1 ORDER BY part, at
"""
_NEVER = """
    SELECT place, sure, claimed_at FROM claim JOIN batch ON batch.id = place >> 16
    WHERE NOT EXISTS (SELECT 1 FROM record WHERE record.hash = claim.hash) ORDER BY place
"""
_STRANGE = "SELECT part, at, id, time, lane, word, type FROM record WHERE place IS NULL ORDER BY part, word, at"
# A record out of order within its key is also out of order within its partition. Partitions are checked first: usually
# none fails, and the sort by key is skipped.
_LATE = """
    CREATE TABLE late AS SELECT DISTINCT part, key FROM (
        SELECT part, key, place, max(place) OVER (
            PARTITION BY part ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS latest
        FROM record WHERE place IS NOT NULL AND hash NOT IN (SELECT hash FROM twice)
    ) WHERE place < latest
"""
_DISORDER = """
    SELECT part, at, place, latest FROM (
        SELECT part, at, place, max(place) OVER (
            PARTITION BY part, key ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS latest
        FROM record JOIN late USING (part, key) WHERE place IS NOT NULL AND hash NOT IN (SELECT hash FROM twice)
    ) WHERE place < latest ORDER BY part, at
"""


class Batch(NamedTuple):
    """The events of one claim for one topic."""

    id: int
    lane: int
    position: int
    topic: str
    claimed_at: float
    """In seconds since 1970, by the database's clock."""
    sure: bool
    """Whether it was certainly published before the ends of the topics were fixed."""


class Consumed(NamedTuple):
    """A record of the service, as entered in the ledger."""

    part: int
    """The caller's number for the partition."""
    offset: int
    identity: int
    key: int
    """Equal for equal keys."""
    event_id: str
    time: str
    lane: int
    word: str
    """The key itself, as text."""
    type: str


class Again(NamedTuple):
    """A record whose event was already published."""

    part: int
    offset: int
    place: int | None
    """None if the event is unknown."""
    event_id: str | None
    """Set, with the time, if the event is unknown."""
    time: str | None
    nth: int
    """2 for the first duplicate."""
    first_part: int
    first_offset: int


class Missing(NamedTuple):
    """A claimed event that is in no topic."""

    place: int
    sure: bool
    claimed_at: float


class Stranger(NamedTuple):
    """A record under the service's name that is in no claim."""

    part: int
    offset: int
    event_id: str
    time: str
    lane: int
    key: str
    type: str


class Disorder(NamedTuple):
    """A record that comes after a later one of its key."""

    part: int
    offset: int
    place: int
    later: int
    """The place of the later one."""


def identity(topic: str, event_id: str) -> int:
    """Return 64 bits for an event on a topic. Among a million events, two collide with a probability of 3e-8."""
    return hash((topic, event_id))


class Ledger:
    """The two lists. All claims must be entered before the first record."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "": a temporary file
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KILOBYTES}"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Remove everything."""
        self._database.close()

    def claim(self, batch: Batch, event_ids: Sequence[str]) -> None:
        """Enter claimed events."""
        assert len(event_ids) <= 1 << INDEX_BITS
        first, topic = batch.id << INDEX_BITS, batch.topic
        self._database.execute("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?)", batch)
        # An id that is claimed twice counts at its last claim.
        self._database.executemany(
            "INSERT OR REPLACE INTO claim VALUES (?, ?)",
            [(identity(topic, event_id), first + n) for n, event_id in enumerate(event_ids)],
        )

    def consume(self, records: Iterable[Consumed]) -> None:
        """Enter a topic's records."""
        self._database.executemany(_RECORD, (record._asdict() for record in records))

    def settle(self) -> None:
        """Compare, once everything is entered; the methods below need it."""
        self._database.executescript(_SETTLE)
        self._database.execute(_LATE)

    def batch(self, place: int) -> Batch:
        """Return the batch that contains `place`."""
        row = self._database.execute("SELECT * FROM batch WHERE id = ?", (place >> INDEX_BITS,)).fetchone()
        return Batch(*row)

    def twice(self) -> Iterator[Again]:
        """Return the duplicates."""
        return map(Again._make, self._rows(_TWICE))

    def never(self) -> Iterator[Missing]:
        """Return the claimed events that no topic has, in the order of their claims."""
        return map(Missing._make, self._rows(_NEVER))

    def strange(self) -> Iterator[Stranger]:
        """Return the records that are in no claim."""
        return map(Stranger._make, self._rows(_STRANGE))

    def disorder(self) -> Iterator[Disorder]:
        """Return the records that are out of order within their key. Duplicates have no order."""
        return map(Disorder._make, self._rows(_DISORDER))

    def _rows(self, query: str) -> Iterator[tuple[object, ...]]:
        with closing(self._database.execute(query)) as rows:
            yield from rows
