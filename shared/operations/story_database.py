"""What one service's database knows of an aggregate, asked for within bounds: it may have a billion rows.

A question that has an index is asked by it. One that has none looks at a bounded number of rows, the newest if there is
an order, and says what it left out. Every question is a transaction of its own that only reads, and ends after
`STATEMENT_SECONDS`; one that fails leaves the others standing. No value is fetched beyond its beginning.
"""

import base64
import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .. import trace_context
from ..errors import ExactlyOnceError
from ..events import ATTRIBUTE_MAX
from ..postgres import database_errors
from ..postgres.access import connect
from ..protocol.ports import Input, Position
from .story_facts import (
    Asked,
    Claimed,
    Decided,
    Identity,
    Known,
    Letter,
    Parked,
    Place,
    Requested,
    Trying,
    Waiting,
)

STATEMENT_SECONDS = 5
"""A look-up takes milliseconds; a scan of `ROWS_MAX` rows takes less than a second where the server is not busy."""

LOCK_SHARE = 0.8
"""Of a statement's time, to wait for a lock: so that it is told that it was a lock."""

SECONDS_MAX = 20.0
"""For all questions to one database together: as long as a person waits at 3 am. They take a tenth of a second."""

ROWS_MAX = 100_000
"""Rows of a table without an index for the question that are looked at."""

FOUND_MAX = 500
"""Rows that one question returns."""

LETTERS_MAX = 20_000
"""Dead letters that are looked at, the newest: there is no index of their keys, and each is compared by its headers."""

HEADERS_MAX = 16_000
"""Bytes, as stored, of the headers that are compared; ours have some 400. A stranger may send megabytes."""

WINDOWS_MAX = 20
"""Stretches of time in which the log of claims is searched: it has no index of the ids, and its order is the time."""

CLAIMED_AFTER = timedelta(seconds=15)
"""How long after a record was handled its effects are looked for in the log of claims. A worker claims them in the same
transaction, or within a second; while there is a backlog, the rows are in the outbox."""

CLOCKS = timedelta(seconds=1)
"""Before it: the two are noted in one transaction, by one clock."""

REQUESTED_BEFORE = timedelta(seconds=30)
"""How long before its event a request may have begun: HTTP_REQUEST_SECONDS_MAX is 20 s by default."""

DETAIL_MAX = 300
"""Characters of an error, or of what a decision has kept."""

VALUE_MAX = 2_000
"""Bytes of a value that are fetched if values are asked for."""

_ASIDE = {"scan": ROWS_MAX, "most": FOUND_MAX, "detail": DETAIL_MAX, "headers_max": HEADERS_MAX, "bytes": VALUE_MAX}

_POSITIONS = text("""
    SELECT topic, partition, next_offset, epoch FROM exactly_once_position ORDER BY topic, partition LIMIT 10000
""")
_TOPICS = text("SELECT name FROM exactly_once_topic ORDER BY name LIMIT 1000")

# An attempt's row is there while a batch is being handled; `ends` is not 0 if processes ended at it.
_TRYING = text("""
    SELECT topic, partition, "offset", last, ends, begun_at, FALSE FROM exactly_once_attempt
    UNION ALL
    SELECT topic, partition, "offset", "offset", ends, ended_at, TRUE FROM exactly_once_stuck_record
    LIMIT 10000
""")

_HANDLED = text("""
    SELECT inbox.source, inbox.event_id, inbox.handled_at
    FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS wanted (source, event_id)
    CROSS JOIN LATERAL (
        SELECT source, event_id, handled_at FROM exactly_once_inbox AS inbox
        WHERE inbox.source = wanted.source AND inbox.event_id = wanted.event_id LIMIT 1
    ) AS inbox
""")

_EVENT = """
    event_id, event_type || '.v' || event_version AS event, topic, key, lane, traceparent,
    CASE WHEN :values THEN substring(data FROM 1 FOR :bytes) END AS value
"""
_WANTED = "key = ANY(CAST(:keys AS text[])) OR event_id = ANY(CAST(:ids AS text[]))"

_OUTBOX = text(f"""
    SELECT {_EVENT}, decided_at AS since, '' AS name, NULL AS due, id = ANY(ARRAY(
        SELECT unnest(row_ids) FROM exactly_once_lane AS lane WHERE lane.lane = waiting.lane
    )) AS claimed
    FROM (SELECT * FROM exactly_once_outbox LIMIT :scan) AS waiting WHERE {_WANTED} ORDER BY id LIMIT :most
""")  # noqa: S608 - constants
_SCHEDULE = text(f"""
    SELECT {_EVENT}, scheduled_at AS since, name, due, FALSE AS claimed
    FROM (SELECT * FROM exactly_once_schedule LIMIT :scan) AS waiting WHERE {_WANTED} ORDER BY due, id LIMIT :most
""")  # noqa: S608 - constants

_LETTERS = text("""
    SELECT id, topic, partition, "offset", epoch, substring(key FROM 1 FOR 4000) AS key, error,
           left(detail, :detail) AS detail, set_aside_at, redriven_at, dismissed_at, dismissed_by, traceparent,
           octet_length(value) AS size, CASE WHEN pg_column_size(headers) <= :headers_max THEN headers END AS headers,
           CASE WHEN :values THEN substring(value FROM 1 FOR :bytes) END AS value
    FROM (SELECT * FROM exactly_once_dead_letter ORDER BY id DESC LIMIT :letters) AS newest
    WHERE key = ANY(CAST(:keys AS bytea[]))
        OR (topic, partition, "offset") IN (
            SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
        )
        OR CASE WHEN pg_column_size(headers) <= :headers_max THEN headers @> ANY(CAST(:heads AS jsonb[])) END
    ORDER BY id DESC LIMIT :most
""")

_PARKED = """
    parked.topic, parked.partition, parked."offset", parked.epoch, substring(parked.key FROM 1 FOR 4000) AS key,
    parked.source, parked.event_id, parked.attempts, parked.due, parked.parked_at, parked.error,
    left(parked.detail, :detail) AS detail
"""
_PARKED_KEYS = text(f"""
    SELECT {_PARKED}
    FROM exactly_once_position AS input
    CROSS JOIN unnest(CAST(:keys AS bytea[])) AS wanted (key)
    CROSS JOIN LATERAL (
        SELECT * FROM exactly_once_parked AS parked
        WHERE parked.topic = input.topic AND parked.partition = input.partition
            AND parked.key_hash = sha256(wanted.key)
        ORDER BY epoch, "offset" LIMIT :most
    ) AS parked
    WHERE isfinite(parked.due) LIMIT :most
""")  # noqa: S608 - constants
_PARKED_IDS = text(f"""
    SELECT {_PARKED} FROM (SELECT * FROM exactly_once_parked LIMIT :scan) AS parked
    WHERE event_id = ANY(CAST(:ids AS text[])) AND isfinite(due) LIMIT :most
""")  # noqa: S608 - constants

_ASKED = """
    id, call_id, call_type || '.v' || call_version AS call, destination, key, decided_at, attempts, maybe_done, stuck,
    left(failure, :detail) AS failure
"""
_CALLS = text(f"""
    SELECT {_ASKED} FROM exactly_once_call WHERE key = ANY(CAST(:keys AS text[])) ORDER BY id LIMIT :most
""")  # noqa: S608 - constants
_CALLS_BY_ID = text(f"""
    SELECT {_ASKED} FROM (SELECT * FROM exactly_once_call ORDER BY id LIMIT :scan) AS oldest
    WHERE call_id = ANY(CAST(:ids AS text[])) LIMIT :most
""")  # noqa: S608 - constants

# An id says its cause: of what a record has caused it begins with the record's place.
_CLAIMED = text("""
    SELECT event_id, topic, lane, position, claimed_at
    FROM (
        SELECT lane, position, claimed_at, topic, event_ids FROM exactly_once_claimed
        WHERE claimed_at BETWEEN :since AND :until LIMIT 1000
    ) AS claim CROSS JOIN LATERAL unnest(claim.event_ids) AS event_id
    WHERE event_id = ANY(CAST(:ids AS text[])) OR event_id LIKE ANY(CAST(:patterns AS text[]))
    LIMIT :most
""")

_REQUESTS = text("""
    SELECT scope, key, status, created_at
    FROM (
        SELECT * FROM exactly_once_idempotency_key WHERE created_at BETWEEN :since AND :until LIMIT 20000
    ) AS meanwhile
    WHERE EXISTS (
        SELECT FROM unnest(CAST(:keys AS text[])) AS wanted (key)
        WHERE strpos(scope || '/', '/' || wanted.key || '/') > 0 OR (
            octet_length(answer) <= 100000 AND position(convert_to('"' || wanted.key || '"', 'UTF8') IN answer) > 0
        )
    )
    ORDER BY created_at LIMIT :most
""")

# Not what was decided about: an edit holds a value, which nobody sees without --values.
_DECISIONS = text("""
    SELECT id, decided_at, command, source, left(after ->> 'by', :detail), left(after ->> 'reason', :detail)
    FROM (SELECT * FROM exactly_once_decision ORDER BY id DESC LIMIT 1000) AS newest
    WHERE id = ANY(CAST(:numbers AS bigint[])) OR before ->> 'key' = ANY(CAST(:keys AS text[]))
        OR before ->> 'event_id' = ANY(CAST(:ids AS text[])) OR before ->> 'call_id' = ANY(CAST(:ids AS text[]))
        OR (command IN ('inputs pause', 'inputs resume') AND EXISTS (
            SELECT FROM unnest(CAST(:topics AS text[]), CAST(:since AS timestamptz[]), CAST(:until AS timestamptz[]))
                AS waited (topic, since, until)
            WHERE waited.topic = newest.source AND decided_at BETWEEN waited.since AND waited.until
        ))
    ORDER BY id DESC LIMIT :most
""")
_PAUSES = text("""
    SELECT topic, decision, left(paused_by, 100), paused_at, left(reason, :detail)
    FROM exactly_once_pause ORDER BY topic LIMIT 1000
""")

_MORE = {
    table: text(f"SELECT EXISTS (SELECT FROM {table} OFFSET {most})")  # noqa: S608 - constants
    for table, most in {
        "exactly_once_outbox": ROWS_MAX,
        "exactly_once_schedule": ROWS_MAX,
        "exactly_once_dead_letter": LETTERS_MAX,
    }.items()
}


class Database:
    """One service's database, and what is known from it. It is asked until it fails to answer at all."""

    def __init__(self, service: str, engine: Engine, *, values: bool = False) -> None:
        self.service = service
        self.known = Known()
        self.missed: dict[str, None] = {}
        """What was not looked at, and why."""
        self.answers = True
        self._engine = engine
        self._values = values
        self._claims_looked: set[str] = set()
        self._left = SECONDS_MAX

    def open(self) -> None:
        """Read where the service stands; notes if its database does not answer, or is none of this library."""
        try:
            with self._connected() as connection:
                self._know(connection)
        except (ExactlyOnceError, SQLAlchemyError) as error:
            self._lose(error)

    def _know(self, connection: Connection) -> None:
        rows = self._ask(connection, "the positions", _POSITIONS)
        self.known.positions = {Input(t, p): Position(h, epoch) for t, p, h, epoch in rows}
        names = {name for (name,) in self._ask(connection, "the topics", _TOPICS)}
        self.known.topics = frozenset(names | {source.topic for source in self.known.positions})
        self.known.trying = [
            Trying(Input(topic, partition), first, last, ends, _utc(at), stuck)
            for topic, partition, first, last, ends, at, stuck in self._ask(connection, "attempts", _TRYING)
        ]
        paused = self._ask(connection, "paused inputs", _PAUSES, {"detail": DETAIL_MAX})
        self.known.pauses = {
            topic: f"decision {decision} of {by} at {_utc(at):%Y-%m-%d %H:%M:%S}: {reason}"
            for topic, decision, by, at, reason in paused
        }

    def look(self, keys: Collection[str], ids: Collection[str] = ()) -> None:
        """Look for what there is of aggregates, and of events by their ids."""
        values = {"keys": list(keys), "ids": list(ids), "values": self._values, **_ASIDE}
        known = self.known
        with self._asking() as connection:
            if connection is None:
                return
            for row in self._ask(connection, "the outbox", _OUTBOX, values, more="exactly_once_outbox"):
                known.outbox[row.event_id] = _waiting(row)
            for row in self._ask(connection, "the schedule", _SCHEDULE, values, more="exactly_once_schedule"):
                known.schedule[row.event_id] = _waiting(row)
            self._letters(connection, keys, ids, ())
            asked = values | {"keys": [key.encode() for key in keys]}
            for row in self._ask(connection, "parked records", _PARKED_KEYS, asked):
                self._park(row)
            for row in self._ask(connection, "calls", _CALLS, values):
                known.calls[row.id] = _call(row)
            if ids:
                for row in self._ask(connection, "parked records", _PARKED_IDS, values):
                    self._park(row)
                for row in self._ask(connection, "calls", _CALLS_BY_ID, values):
                    known.calls[row.id] = _call(row)

    def look_again(self, published: Collection[str]) -> None:
        """Look whether these events, whose records were found since, still wait to be published."""
        known = self.known
        ids = [one for one in published if one in known.outbox or one in known.schedule][:FOUND_MAX]
        if not ids:
            return
        values = {"keys": [], "ids": ids, "values": self._values, **_ASIDE}
        with self._asking() as connection:
            if connection is None:
                return
            for rows, what, statement in (
                (known.outbox, "the outbox", _OUTBOX),
                (known.schedule, "the schedule", _SCHEDULE),
            ):
                found = self._answer(connection, what, statement, values)
                if found is not None:
                    for one in ids:
                        rows.pop(one, None)
                    rows.update({row.event_id: _waiting(row) for row in found})

    def _park(self, row: Any) -> None:
        topic, partition, offset, epoch, key, source, event_id, attempts, due, since, error, detail = row
        place = Place(topic, partition, offset)
        self.known.parked[place] = Parked(
            place, epoch, _text(key), source, event_id, attempts, _utc(due), _utc(since), error, detail
        )

    def receive(self, identities: Collection[Identity], places: Collection[Place]) -> None:
        """Look which of these events it has received, and which of these records it has set aside."""
        new = [one for one in identities if one not in self.known.handled]
        if not new and not places:
            return
        with self._asking() as connection:
            if connection is None:
                return
            values = {"sources": [source for source, _ in new], "ids": [event_id for _, event_id in new]}
            for source, event_id, at in self._ask(connection, "the inbox", _HANDLED, values) if new else ():
                self.known.handled[source, event_id] = _utc(at)
            if places:
                self._letters(connection, (), (), places)

    def _letters(
        self, connection: Connection, keys: Iterable[str], ids: Iterable[str], places: Collection[Place]
    ) -> None:
        heads = [json.dumps([["ce_id", base64.b64encode(one.encode()).decode()]]) for one in ids]
        values = {
            "keys": [key.encode() for key in keys],
            "heads": heads,
            "topics": [place.topic for place in places],
            "partitions": [place.partition for place in places],
            "offsets": [place.offset for place in places],
            "letters": LETTERS_MAX,
            "values": self._values,
            **_ASIDE,
        }
        rows = self._ask(connection, "dead letters", _LETTERS, values, more="exactly_once_dead_letter")
        for row in rows:
            self.known.letters[row.id] = _letter(row)

    def follow(self, effects: Sequence[tuple[datetime, str]], ids: Collection[str]) -> None:
        """Look in the log of claims for what was published about records, each with the time at which it was handled
        and the beginning of the ids, and for events by their ids.
        """
        new = [(at, begin) for at, begin in effects if begin not in self._claims_looked]
        self._claims_looked.update(begin for _, begin in new)
        if not new:
            return
        with self._asking() as connection:
            if connection is None:
                return
            windows = _windows([at for at, _ in new])
            if len(windows) > WINDOWS_MAX:
                self._miss(f"the log of claims was looked at around the first {WINDOWS_MAX} moments of {len(windows)}")
            patterns = [f"{begin.translate(_LIKE)}%" for _, begin in new]
            for since, until in windows[:WINDOWS_MAX]:
                values = {"since": since, "until": until, "ids": list(ids), "patterns": patterns, "most": FOUND_MAX}
                for event_id, topic, lane, position, at in self._ask(connection, "the log of claims", _CLAIMED, values):
                    self.known.claimed[event_id] = Claimed(event_id, topic, lane, position, _utc(at))

    def find_requests(self, moments: Collection[datetime], keys: Collection[str]) -> None:
        """Look for the requests that began shortly before these moments and are about these keys."""
        with self._asking() as connection:
            if connection is None or not moments:
                return
            for since, until in _windows(list(moments), REQUESTED_BEFORE, CLOCKS)[:WINDOWS_MAX]:
                values = {"since": since, "until": until, "keys": list(keys), "most": FOUND_MAX}
                for scope, key, status, at in self._ask(connection, "requests", _REQUESTS, values):
                    self.known.requests[scope, key] = Requested(scope, key, status, _utc(at))

    def find_decisions(
        self, keys: Collection[str], ids: Collection[str], waited: Sequence[tuple[str, datetime, datetime]]
    ) -> None:
        """Look for what operators decided about these keys and events, about the dead letters that are known, and about
        these topics while a record waited there.
        """
        numbers = [one.dismissed_by for one in self.known.letters.values() if one.dismissed_by is not None]
        values = {
            "keys": list(keys),
            "ids": list(ids),
            "numbers": numbers,
            "topics": [topic for topic, _, _ in waited],
            "since": [since for _, since, _ in waited],
            "until": [until for _, _, until in waited],
            **_ASIDE,
        }
        with self._asking() as connection:
            if connection is not None:
                for row in self._ask(connection, "decisions", _DECISIONS, values):
                    self.known.decisions[row[0]] = Decided(row[0], _utc(row[1]), *row[2:])

    @contextmanager
    def _asking(self) -> Iterator[Connection | None]:
        """Give a connection, or None when there is none to be had any more."""
        if not self.answers:
            yield None
            return
        try:
            with self._connected() as connection:
                yield connection
        except (ExactlyOnceError, SQLAlchemyError) as error:
            self._lose(error)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with closing(connect(self._engine)) as connection:
            yield connection

    def _ask(
        self,
        connection: Connection,
        what: str,
        statement: TextClause,
        values: dict[str, Any] | None = None,
        *,
        more: str = "",
    ) -> Sequence[Any]:
        """Return the rows of a statement; none, and a note, if it fails. Raises `DBAPIError` if the session is lost."""
        return self._answer(connection, what, statement, values, more=more) or ()

    def _answer(
        self,
        connection: Connection,
        what: str,
        statement: TextClause,
        values: dict[str, Any] | None = None,
        *,
        more: str = "",
    ) -> Sequence[Any] | None:
        """Return the rows of a statement; None, and a note, if it fails. Raises `DBAPIError` if the session is lost."""
        began = time.monotonic()
        milliseconds = int(min(STATEMENT_SECONDS, self._left) * 1_000)
        if milliseconds <= 0:
            self._miss(f"it was asked for {SECONDS_MAX:.0f} s, and no longer")
            return None
        try:
            with connection.begin():
                connection.execute(text("SET TRANSACTION READ ONLY"))
                connection.execute(text(f"SET LOCAL statement_timeout = {milliseconds}"))
                connection.execute(text(f"SET LOCAL lock_timeout = {max(1, int(milliseconds * LOCK_SHARE))}"))
                rows = connection.execute(statement, values or {}).all()
                left_out = bool(more) and connection.execute(_MORE[more]).scalar_one()
        except (SQLAlchemyError, UnicodeError) as error:  # not every database has all characters
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            reason = error.orig if isinstance(error, DBAPIError) else error
            self._miss(f"{what} could not be looked at: {' '.join(str(reason).split())}{_locked(reason)}")
            return None
        finally:
            self._left -= time.monotonic() - began
        if left_out:
            newest = "newest " if more == "exactly_once_dead_letter" else "first "
            most = LETTERS_MAX if newest == "newest " else ROWS_MAX
            self._miss(f"of {what} the {newest}{most:,} rows were looked at, not the others")
        if len(rows) == (values or {}).get("most"):
            self._miss(f"of {what} {len(rows):,} rows are shown; there may be more")
        return rows

    def _miss(self, note: str) -> None:
        self.missed[f"{self.service}: {note}"] = None

    def _lose(self, error: Exception) -> None:
        self.answers = False
        detail = error.orig if isinstance(error, DBAPIError) else error
        self._miss(f"its database could not be asked: {' '.join(str(detail).split())}")


def _locked(reason: object) -> str:
    locked = getattr(reason, "sqlstate", None) == database_errors.LOCKED
    return "; another session has locked it: `doctor` tells which" if locked else ""


_LIKE = str.maketrans({character: f"\\{character}" for character in "\\%_"})


def _windows(
    moments: Sequence[datetime], before: timedelta = CLOCKS, after: timedelta = CLAIMED_AFTER
) -> list[tuple[datetime, datetime]]:
    """Return the stretches of time around `moments`, those that overlap as one."""
    found: list[tuple[datetime, datetime]] = []
    for moment in sorted(moments):
        since, until = moment - before, moment + after
        if found and since <= found[-1][1]:
            found[-1] = found[-1][0], until
        else:
            found.append((since, until))
    return found


def _waiting(row: Any) -> Waiting:
    return Waiting(
        row.event_id,
        row.event,
        row.topic,
        row.key,
        _utc(row.since),
        row.lane,
        bool(row.claimed),
        row.name,
        None if row.due is None else _utc(row.due),
        trace_context.of_text(row.traceparent).traceparent or None,
        None if row.value is None else _text(row.value),
    )


def _call(row: Any) -> Asked:
    since = _utc(row.decided_at)
    state = (row.attempts, row.maybe_done, row.stuck, row.failure)
    return Asked(row.id, row.call_id, row.call, row.destination, row.key, since, *state)


def _letter(row: Any) -> Letter:
    heads: dict[str, str] = {}
    for name, held in row.headers or ():
        if name in ("ce_id", "ce_source", "ce_type") and held is not None:
            heads[name] = _text(base64.b64decode(held))[:ATTRIBUTE_MAX]
    return Letter(
        row.id,
        Place(row.topic, row.partition, row.offset),
        row.epoch,
        _text(row.key or b""),
        row.error,
        row.detail,
        _utc(row.set_aside_at),
        None if row.redriven_at is None else _utc(row.redriven_at),
        None if row.dismissed_at is None else _utc(row.dismissed_at),
        row.dismissed_by,
        heads.get("ce_source", ""),
        heads.get("ce_id", ""),
        heads.get("ce_type", ""),
        trace_context.of_text(row.traceparent).traceparent or None,
        row.size or 0,
        None if row.value is None else _text(row.value),
    )


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _text(data: bytes) -> str:
    return bytes(data).decode(errors="backslashreplace").replace("\0", "\\x00")
