"""The Postgres port: the one session of a worker, which holds its slot, and the transaction of a cycle."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from logging import DEBUG
from math import inf
from typing import Any

from psycopg import Connection as PsycopgConnection
from psycopg.errors import Diagnostic
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..errors import (
    DatabaseInDoubt,
    DatabaseUnavailable,
    DebuggerQuit,
    ExactlyOnceError,
    HandlingFailed,
    ServiceBroken,
    SessionMisused,
    SlotInDoubt,
    SlotLost,
    Undecided,
)
from ..events import Event
from ..protocol import attempts as protocol_attempts
from ..protocol.parking import place
from ..protocol.ports import (
    Arrival,
    Claim,
    Delivery,
    Input,
    NewDeadLetter,
    NewParked,
    OutboxRow,
    ParkedRecord,
    Position,
    Received,
    Record,
    Waiting,
)
from ..scheduling import Change
from ..service import Service
from ..session import Session
from ..telemetry.failures import add_places, frames
from ..telemetry.logs import log
from ..telemetry.waits import MAIN_LOOP, Wait
from . import (
    ahead,
    attempts,
    blame,
    database_errors,
    dead_letters,
    inbox,
    outbox,
    parked,
    pauses,
    positions,
    schedule,
    slots,
    stuck_records,
)
from .ahead import Statement
from .deadline import Deadline
from .engine import CONNECT_SECONDS, LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS
from .handlers import At, Handlers
from .outbox import Outbox
from .recurring import Recurring, Run


def unavailable(error: BaseException | None) -> DatabaseUnavailable | SlotInDoubt | None:
    """Return what to raise if `error` concerns the server and not the data, else None."""
    if not isinstance(error, DBAPIError):
        return None
    if error.connection_invalidated:
        return SlotInDoubt(f"the database session was lost: {error.orig}")
    if blame.is_infrastructure(error):
        return DatabaseUnavailable(f"PostgreSQL: {error.orig}")
    return None


@contextmanager
def _sorted_errors() -> Iterator[None]:
    """Translate failures of the server, also those that a handler met. Others may be due to a record's content, such
    as text that the database's encoding lacks.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, HandlingFailed) else error
        if blame.is_debuggers(cause):
            raise DebuggerQuit from error
        meaning = unavailable(cause)
        record = error.record if isinstance(error, HandlingFailed) else None
        if (
            isinstance(meaning, DatabaseUnavailable)
            and isinstance(error, HandlingFailed)
            and blame.may_be_either(cause)
        ):
            undecided = Undecided(str(meaning))
            undecided.frames = frames(cause or error)
            raise HandlingFailed(record) from undecided
        if meaning is not None:
            raise meaning from error
        if cause is not None and blame.is_service(cause):
            broken = ServiceBroken(blame.why(cause))
            broken.frames = frames(cause)
            raise HandlingFailed(record) from broken
        if isinstance(error, ExactlyOnceError):
            raise
        raise HandlingFailed(None) from error


def _waiting() -> AbstractContextManager[Wait]:
    return MAIN_LOOP.waiting("an answer of PostgreSQL", STATEMENT_TIMEOUT_MS / 1_000)


@contextmanager
def _answered() -> Iterator[None]:
    with _sorted_errors(), _waiting():
        yield


class PostgresTransaction:
    """One transaction. Implements `shared.protocol.ports.Transaction`."""

    def __init__(
        self,
        session: Session,
        *,
        service: Service,
        handlers: Handlers,
        outbox: Outbox,
        claim_bytes: int,
        warnings: list[str],
        recurring: Recurring | None = None,
        attempted: set[Input] | None = None,
        outlived: Callable[[], None] = lambda: None,
        ask_what_is_due: Callable[[], None] = lambda: None,
        retry_seconds_max: float = 0.0,
    ) -> None:
        self._session = session
        self._retry_seconds_max = retry_seconds_max
        self._attempted = attempted if attempted is not None else set()
        self._outlived = outlived
        self._ask_what_is_due = ask_what_is_due
        self._scheduled = False
        """Whether a handler has scheduled an event that may be due before a worker asks what is due."""
        self._handled = False
        """Whether the attempted records are handled once this commits."""
        self._service = service
        self._handlers = handlers
        self._outbox = outbox
        self._claim_bytes = claim_bytes
        self._recurring = recurring or Recurring(service)
        self._warnings = warnings
        self._connection: Connection = session.connection()
        self._deliveries: Sequence[Delivery] = ()
        self._ahead: list[Statement] = []
        """Statements whose answers nobody waits for; they are sent with the next ones."""

    def receive(self, inputs: Collection[Input], arrivals: Sequence[Arrival]) -> Received:
        statements = [positions.locking(inputs)]
        if arrivals:
            statements += [inbox.receiving(arrivals), parked.holding(arrivals)]
        with _sorted_errors(), MAIN_LOOP.waiting("the locks of its inputs' positions", LOCK_TIMEOUT_MS / 1_000):
            found, *others = ahead.execute(self._connection, statements)
        new, held = others or ((), ())
        return Received(positions.found(found), {(source, event_id) for source, event_id in new}, parked.held(held))

    def park(self, new: Sequence[NewParked]) -> None:
        encoding = parked.encoding(self._connection)
        self._ahead.append(parked.parking(new, self._retry_seconds_max, encoding))

    def forget_received(self, aside: Sequence[ParkedRecord]) -> None:
        self._ahead.append(parked.forgetting_received(aside))

    def take(self, taken: Sequence[ParkedRecord]) -> list[ParkedRecord]:
        with _answered():
            (rows,) = self._execute(parked.taking(taken))
        there = {(Input(topic, partition), epoch, offset) for topic, partition, epoch, offset in rows}
        return [one for one in taken if place(one) in there]

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        if log.is_enabled_for(DEBUG):
            log.debug("handling", events=len(deliveries), ids=[delivery.envelope.id for delivery in deliveries])
        counts: Counter[tuple[Input, int, str]] = Counter()

        def collect(delivery: Delivery, events: Iterable[Event], change: Change | None = None) -> None:
            for event in events:
                name = type(event).__name__
                identity = (*delivery.record[:2], name)
                event_id = dead_letters.cause_id(
                    self._service.name, delivery.record, delivery.epoch, name, counts[identity]
                )
                counts[identity] += 1
                self._outbox.collect(self._session, event, event_id, delivery.envelope.traceparent, change)
                if change is not None and change.moment is not None:
                    self._scheduled = self._scheduled or (change.moment.seconds or 0.0) < schedule.NEAR_SECONDS

        deadline = self._handlers.deadline
        deadline.renew()
        self._deliveries = deliveries
        self._session.settler = partial(self._outbox.settle, self._session)
        with _sorted_errors(), deadline, self._placed():
            self._handlers.run(deliveries, self._session, collect)

    def set_aside(self, new: Sequence[NewDeadLetter]) -> None:
        with _answered():
            dead_letters.set_aside(self._session, self._service, self._outbox, new)

    def write_outbox(self) -> None:
        with _sorted_errors(), self._handlers.deadline:
            try:
                with self._placed():
                    self._ahead += self._outbox.insertion(self._session)
            except Exception as error:
                raise HandlingFailed(None) from error

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Make a failure of no particular record name the batch's handlers."""
        try:
            yield
        except HandlingFailed as error:
            if error.record is None and error.__cause__ is not None:
                add_places(error.__cause__, self._handlers.places(self._deliveries))
            raise
        except Exception as error:
            add_places(error, self._handlers.places(self._deliveries))
            raise

    def advance(self, moved: Mapping[Input, int]) -> None:
        self._ahead.append(positions.advancing(moved))
        if self._attempted:
            self._ahead.append(attempts.forgetting(self._attempted))
            self._handled = True

    def lock_claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        with _sorted_errors(), MAIN_LOOP.waiting("the locks of its lanes' claims", LOCK_TIMEOUT_MS / 1_000):
            (found,) = self._execute(outbox.locking_claims(lanes))
        return outbox.claims(found)

    def forget(self, lanes: Collection[int]) -> None:
        self._ahead.append(outbox.forgetting(lanes))

    def claim(
        self, limits: Mapping[int, int], unpublished: Collection[int]
    ) -> tuple[dict[int, Claim], Sequence[OutboxRow]]:
        with _answered():
            runs, claimed, rows = self._execute(
                schedule.moving(limits, self._recurring.names),
                outbox.claiming(limits, self._claim_bytes),
                outbox.reading({*limits, *unpublished}),
            )
            if runs:
                self._recurring.follow(self._connection, map(Run._make, runs))
        return outbox.claims(claimed), outbox.rows(rows)

    def claim_less(self, limits: Mapping[int, int]) -> dict[int, Claim]:
        with _answered():
            return outbox.claim_less(self._connection, limits)

    def claimed(self, lanes: Collection[int]) -> list[OutboxRow]:
        with _answered():
            return outbox.claimed(self._connection, lanes)

    def _execute(self, *statements: Statement) -> list[list[tuple[Any, ...]]]:
        """Send what waits and `statements` together; return the rows of the latter."""
        sent, self._ahead = [*self._ahead, *statements], []
        if not sent:
            return []
        with self._placed():
            return ahead.execute(self._connection, sent)[len(sent) - len(statements) :]

    def commit(self) -> None:
        with _answered():
            self._execute()
        self._warnings.clear()
        try:
            with _waiting(), self._placed():
                self._session.commit()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseInDoubt(f"the reply to COMMIT was lost: {error.orig}") from error
            if blame.may_be_either(error):  # from a trigger deferred to COMMIT
                raise HandlingFailed(None) from Undecided(f"PostgreSQL: {error.orig}")
            raise unavailable(error) or HandlingFailed(None) from error
        except SessionMisused as error:
            raise HandlingFailed(None) from error
        finally:
            self._session.close()
        if self._handled:
            self._attempted.clear()
        if self._scheduled:
            self._ask_what_is_due()
        if self._warnings:
            # "canceling wait for synchronous replication": committed here, perhaps not on the next primary.
            raise DatabaseInDoubt(f"COMMIT came back with a warning: {self._warnings[0]}")

    def rollback(self) -> None:
        with suppress(DBAPIError), _waiting():  # if the session is lost, the transaction is lost with it
            self._session.close()
        self._outlived()


_CANCEL = text("""
    SELECT wait_event_type = 'Lock' AS locked, pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE pid = :pid AND state = 'active'
""")


class WorkerDatabase:
    """The one database session of a worker. Implements `shared.protocol.ports.Database`.

    The session that holds the slot also runs the batches, so losing it makes the next COMMIT fail by itself.
    """

    def __init__(
        self,
        engine: Engine,
        aside: Engine,
        service: Service,
        outbox: Outbox,
        *,
        slots_max: int,
        claim_bytes: int,
        handler_seconds_max: float,
        retry_seconds_max: float,
    ) -> None:
        self._engine = engine
        self._retry_seconds_max = retry_seconds_max
        self._aside = aside
        """For work that cannot wait for the busy session."""
        self._service = service
        self.deadline = Deadline(handler_seconds_max, self._cancel)
        self._handlers = Handlers(service, self.deadline)
        self._recurring = Recurring(service)
        self._outbox = outbox
        self._slots_max = slots_max
        self._claim_bytes = claim_bytes
        self._slot: int | None = None
        self._connection: Connection | None = None
        self._backend: slots.Backend | None = None
        self._warnings: list[str] = []
        self._attempted: set[Input] = set()
        """Inputs with a note that this process is about to handle their next records."""
        self._due = inf
        """When the next scheduled event is due, by this process's clock of seconds."""
        self._noted: Sequence[ParkedRecord] = ()
        """Parked records with a note that this process tries them."""

    @property
    def slot(self) -> int | None:
        """The slot that this worker holds."""
        return self._slot

    def settle_seconds(self) -> float:
        """Return how long a newcomer must still wait before it takes a slot. Raises `DatabaseUnavailable`."""
        with self._transient(connect=True) as connection:
            return slots.SETTLE_SECONDS - slots.seconds_since_start(connection)

    def take_slot(self) -> bool:
        """Take the lowest free slot; False if there is none. Raises `DatabaseUnavailable`."""
        with self._transient(connect=True) as connection:
            self._slot = slots.take_any(connection, self._slots_max)
        return self._slot is not None

    def hold_slot(self) -> None:
        if self._slot is None:
            raise SlotLost("this worker never had a slot")
        with self._transient(connect=True) as connection:
            if not slots.is_mine(connection, self._slot) and not slots.take(connection, self._slot):
                raise SlotLost(f"slot {self._slot} of {self._service.name} is held by another worker")

    def begin(self) -> PostgresTransaction:
        if self._connection is None or self._connection.invalidated:
            raise SlotInDoubt
        session = Session(self._connection)
        with _sorted_errors():
            return PostgresTransaction(
                session,
                service=self._service,
                handlers=self._handlers,
                outbox=self._outbox,
                claim_bytes=self._claim_bytes,
                recurring=self._recurring,
                warnings=self._warnings,
                attempted=self._attempted,
                outlived=self._outlived,
                ask_what_is_due=self._ask_what_is_due,
                retry_seconds_max=self._retry_seconds_max,
            )

    def positions(self, inputs: Collection[Input]) -> dict[Input, Position]:
        with self._transient() as connection:
            return positions.read(connection, inputs)

    def start_positions(self, beginnings: Mapping[Input, int]) -> None:
        with self._transient() as connection:
            positions.start(connection, beginnings)

    def claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        with self._transient() as connection:
            return outbox.read_claims(connection, lanes)

    def unpublished(self, lanes: Collection[int]) -> bool:
        with self._transient() as connection:
            found = outbox.unpublished(connection, lanes, self._recurring.names)
        seconds = inf if found.due_seconds is None else found.due_seconds
        # What is due already is moved by the cycle that follows, or is locked, and then asked for again in a while.
        self._due = time.monotonic() + seconds if seconds > 0 else inf
        return found.rows or seconds <= 0

    def due_seconds(self, now: float) -> float:
        """Return how long it is until the next scheduled event is due, as `unpublished` has learned last. Once it is
        due, that is said once: whoever acts on it, or asks, learns when the one after it is.
        """
        if (seconds := self._due - now) > 0:
            return seconds
        self._due = inf
        return 0.0

    def _ask_what_is_due(self) -> None:
        self._due = -inf

    def waiting(self, inputs: Collection[Input]) -> dict[Input, Waiting] | None:
        with self._transient() as connection:
            return parked.waiting(connection, inputs)

    def next_parked(self, inputs: Collection[Input], most: int) -> list[ParkedRecord]:
        with self._transient() as connection:
            parked.withdraw(connection, self._noted)
            found = parked.choose(connection, inputs, most, self._retry_seconds_max)
        self._noted = found
        return found

    def tried(self, again: Sequence[ParkedRecord], failed: ParkedRecord | None, error: Exception) -> None:
        with self._transient() as connection:
            parked.tried(connection, again, failed, error, self._retry_seconds_max)
        self._noted = ()

    @property
    def at(self) -> At | None:
        """The records being handled, and their handler."""
        return self._handlers.at

    def stuck(self) -> Mapping[Input, stuck_records.Stuck]:
        """Return the records at which processes ended. Raises what `positions` raises."""
        with self._transient() as connection:
            return stuck_records.read(connection)

    def attempt(self, records: Sequence[Record]) -> None:
        outlived = frozenset(self._attempted)
        self._attempted.update(record.input for record in records)  # first: the answer may be lost
        with self._transient() as connection:
            attempts.forget(connection, outlived)
            attempts.begin(connection, records)

    def attempts(self) -> Mapping[Input, protocol_attempts.Attempt]:
        """Return what killed processes were handling. Raises what `positions` raises."""
        with self._transient() as connection:
            attempts.forget(connection, self._attempted)
            found = attempts.read(connection)
        self._attempted.clear()
        return found

    def paused(self) -> frozenset[str]:
        """Return the topics that an operator has paused. Raises what `positions` raises."""
        with self._transient() as connection:
            return frozenset(pauses.look(connection))

    def _outlived(self) -> None:
        """Delete this process's notes, since it survived; if that fails, retry before more is noted or read. A lost
        session keeps its note: its record may be the reason.
        """
        if self._connection is None or self._connection.invalidated:
            self._attempted.clear()
        if self._attempted:
            with suppress(ExactlyOnceError, SQLAlchemyError):
                with self._transient() as connection:
                    attempts.forget(connection, self._attempted)
                self._attempted.clear()

    def note_stuck(self, record: Record, detail: str, traceback: str) -> None:
        """Note that this process is about to end at `record`, on a session of its own. Raises `DBAPIError`."""
        with self._aside.begin() as connection:
            stuck_records.note(connection, record, detail, traceback)

    def _cancel(self) -> bool:
        """Cancel the session's running statement; return whether it waited for a lock. Never raises."""
        with suppress(SQLAlchemyError), self._aside.begin() as connection:
            found = connection.execute(_CANCEL, {"pid": self._backend.pid if self._backend else None}).one_or_none()
            return found is not None and bool(found.locked)
        return False

    def close(self) -> None:
        """End the session, which releases the slot."""
        connection, self._connection = self._connection, None
        self._noted = ()  # the record may be why the session ended
        if connection is not None:
            connection.invalidate()
            connection.close()

    @contextmanager
    def _transient(self, *, connect: bool = False) -> Iterator[Connection]:
        """Yield the connection, in a short transaction. Only callers that take or check the slot may `connect` anew: a
        new session does not hold it.

        Raises `DatabaseUnavailable`, or `SlotInDoubt` if the session was lost.
        """
        if (self._connection is None or self._connection.invalidated) and not connect:
            raise SlotInDoubt
        try:
            with MAIN_LOOP.waiting("a session of PostgreSQL", CONNECT_SECONDS + slots.TERMINATE_MS / 1_000):
                connection = self._connected()
            with _waiting(), connection.begin():
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated:
                self.close()
            raise DatabaseUnavailable(f"PostgreSQL: {error.orig}") from error

    def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.invalidated:
            return self._connection
        self.close()
        connection = self._engine.connect()
        try:
            with connection.begin():
                if self._backend is not None:
                    slots.terminate(connection, self._backend)
                self._backend = slots.backend(connection)
        except BaseException:
            connection.close()
            raise
        raw = connection.connection.driver_connection
        assert isinstance(raw, PsycopgConnection)
        raw.add_notice_handler(self._notice)
        self._connection = connection
        return connection

    def _notice(self, notice: Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(database_errors.words(notice))
