"""PostgreSQL: one service's tables, atomic transactions, row locks, and sessions that die.

Modelled: READ COMMITTED (a statement sees what is committed when it runs, and the transaction's own changes); locks of
positions, claims, inbox ids and aggregates, with a lock timeout; ids that are given before the commit; a COMMIT whose
reply is lost, or that arrives late; slots, held by a session; notes of what is about to be handled; records that end
what handles them; parked records, of which one that failed is due when somebody asks for the second time; dead letters
that hold their key, until a person redrives or dismisses them.

Left out: failover and restore, constraints and data that a handler may violate, serialization failures other than as
an error at any call, deadlock detection (the lock timeout ends them), locks of the notes.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from shared.errors import (
    DatabaseInDoubt,
    DatabaseUnavailable,
    HandlingFailed,
    ProcessEnded,
    Reject,
    Retry,
    SlotInDoubt,
    SlotLost,
)
from shared.protocol.attempts import Attempt
from shared.protocol.parking import Place as ParkedPlace
from shared.protocol.parking import place, size
from shared.protocol.ports import (
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
from tests.simulation.client import At, lane_of
from tests.simulation.ends import Ends, Place
from tests.simulation.faults import Fault, Violated

LOCK_ROUNDS = 3
"""lock_timeout."""

IDLE_ROUNDS = 11
"""idle_in_transaction_session_timeout: longer than the session timeout of Kafka, so that a successor meets locks."""


RETRIES = 3
"""How often a handler asks for another attempt of a word that has to wait: it is parked for some rounds."""


class Claimed(NamedTuple):
    """A row of table `exactly_once_lane`."""

    position: int
    claim_id: str
    ids: tuple[int, ...]


class Note(NamedTuple):
    """A row of table `exactly_once_attempt`."""

    offset: int
    last: int
    ends: int


@dataclass
class Changes:
    """A transaction's changes so far."""

    positions: dict[Input, int] = field(default_factory=dict)
    inbox: set[tuple[str, str]] = field(default_factory=set)
    effects: list[str] = field(default_factory=list)
    handled: set[str] = field(default_factory=set)
    order: list[tuple[Input, bytes, int]] = field(default_factory=list)
    parked: dict[ParkedPlace, ParkedRecord] = field(default_factory=dict)
    aside: set[ParkedPlace] = field(default_factory=set)
    taken: set[ParkedPlace] = field(default_factory=set)
    unreceived: set[tuple[str, str]] = field(default_factory=set)
    dead_letters: list[NewDeadLetter] = field(default_factory=list)
    ended: set[Place] = field(default_factory=set)
    forgotten: set[Input] = field(default_factory=set)
    outbox: dict[int, OutboxRow] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    claims: dict[int, Claimed] = field(default_factory=dict)


@dataclass(eq=False)
class Session:
    """One connection, as the server sees it."""

    slot: int | None = None
    alive: bool = True
    changes: Changes | None = None


class Postgres:
    """The server."""

    def __init__(self, lanes: int, slots: int, rule: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.positions: dict[Input, int] = {}
        self.inbox: set[tuple[str, str]] = set()
        self.effects: list[str] = []
        self.handled: set[str] = set()
        """The names of records that took effect."""
        self.order: list[tuple[Input, bytes, int]] = []
        """Input, key and offset of the records that took effect, in the order of the commits."""
        self.parked: dict[ParkedPlace, ParkedRecord] = {}
        self.aside: set[ParkedPlace] = set()
        """Those of them that are dead letters, and hold their key."""
        self.undecided: set[tuple[Input, bytes, int]] = set()
        """Input, key and offset of the dead letters that hold their key, whatever became of their place."""
        self.overtook: list[str] = []
        """Records that took effect behind one of these."""
        self.dismissed: set[str] = set()
        """The ids of events that a person gave up."""
        self.was_parked: set[Place] = set()
        """Records that were parked at any time."""
        self.postponed: set[ParkedPlace] = set()
        """Parked records that are not due when somebody asks next."""
        self.tried: Counter[str] = Counter()
        """How often handlers asked for another attempt of a record that has to wait."""
        self.paused: frozenset[str] = frozenset()
        """The topics that an operator has paused."""
        self.parks = True
        """Whether the schema accepts parked records."""
        self.dead_letters: list[NewDeadLetter] = []
        self.ended: set[Place] = set()
        """Records set aside because processes ended at them."""
        self.notes: dict[Input, Note] = {}
        self.ends = Ends()
        self.outbox: dict[int, OutboxRow] = {}
        self.claims = {lane: Claimed(0, "", ()) for lane in range(lanes)}
        self.decided: list[OutboxRow] = []
        """Every row ever committed, in commit order."""
        self.deleted: set[str] = set()
        """Event ids of deleted rows."""
        self.failed: list[object] = []
        """Records at which a handler failed."""
        self.slots: dict[int, Session | None] = dict.fromkeys(range(slots))
        self.locks: dict[object, Session] = {}
        self.handler: Callable[[Delivery], Sequence[OutboxRow]] = tell
        """Handles an event: returns the rows to publish about it."""
        self.too_large: Callable[[OutboxRow], bool] = lambda row: False
        """Whether a row is too large to be written."""
        self._ids = 0
        self._rule = rule
        self._changed = changed

    def next_id(self) -> int:
        """Return the sequence's next id; it knows no transactions."""
        self._ids += 1
        return self._ids

    def try_lock(self, session: Session, row: object) -> bool:
        """Lock a row until the session's transaction ends, if no other has it."""
        return self.locks.setdefault(row, session) is session

    def commit(self, session: Session) -> None:
        """Commit."""
        changes = session.changes
        if changes is None:
            return
        self.positions |= changes.positions
        self.inbox |= changes.inbox
        self.inbox -= changes.unreceived
        self.effects += changes.effects
        self.handled |= changes.handled
        self.order += changes.order
        self.parked = {at: one for at, one in self.parked.items() if at not in changes.taken} | changes.parked
        self.was_parked |= {one.record[:2] for one in changes.parked.values()}
        self.aside = self.aside - changes.parked.keys() | changes.aside
        self.dead_letters += changes.dead_letters
        self.undecided |= {
            (letter.record.input, letter.record.key or b"", letter.record.offset)
            for letter in changes.dead_letters
            if holds(letter.record)
        }
        self.overtook += [
            f"{source}@{offset}"
            for source, key, offset in changes.order
            if any((source, key) == held[:2] and held[2] < offset for held in self.undecided)
        ]
        self.ended |= changes.ended
        self.forget_notes(changes.forgotten)
        self.decided += [changes.outbox[row_id] for row_id in sorted(changes.outbox)]
        self.deleted |= {self.outbox[row_id].event_id for row_id in changes.deleted if row_id in self.outbox}
        self.outbox |= changes.outbox
        self.outbox = {row_id: row for row_id, row in self.outbox.items() if row_id not in changes.deleted}
        self.claims |= changes.claims
        self.rollback(session)
        self._changed()

    def note(self, records: Sequence[Record]) -> None:
        """Do what `shared.postgres.attempts.begin` does."""
        spans: dict[Input, list[int]] = {}
        for record in records:
            spans.setdefault(record.input, []).append(record.offset)
        for source, offsets in spans.items():
            ends = int(len(records) == 1)
            known = self.notes.get(source)
            if ends and known is not None and known.ends and known.offset == offsets[0]:
                ends = known.ends + 1
            self.notes[source] = Note(offsets[0], offsets[-1], ends)

    def forget_notes(self, inputs: Collection[Input]) -> None:
        """Do what `shared.postgres.attempts.forget` does."""
        self.notes = {source: note for source, note in self.notes.items() if source not in inputs}

    def free(self, parked: ParkedRecord) -> bool:
        """Whether no dead letter holds the key at `parked`, or before it."""
        key = parked.record.input, parked.record.key
        return not any(
            (one.record.input, one.record.key) == key and at <= place(parked)
            for at, one in self.parked.items()
            if at in self.aside
        )

    def rollback(self, session: Session) -> None:
        """Roll back."""
        session.changes = None
        self.locks = {row: holder for row, holder in self.locks.items() if holder is not session}

    def end(self, session: Session) -> None:
        """End a session; its open transaction is rolled back."""
        if session.changes is not None:
            self._rule("a dying session rolls back")
        self.rollback(session)
        session.alive = False
        if session.slot is not None and self.slots[session.slot] is session:
            self.slots[session.slot] = None

    def undecided_about(self, key: bytes) -> ParkedPlace | None:
        """Return the dead letter that holds `key`, if no record waits before it."""
        of_key = [at for at, one in sorted(self.parked.items()) if one.record.key == key]
        return of_key[0] if of_key and of_key[0] in self.aside else None

    def decide(self, session: Session, key: bytes, *, redrive: bool) -> bool:
        """Do what a person does about the dead letter that holds `key`; False if it has to wait."""
        at = self.undecided_about(key)
        if at is None or not self.try_lock(session, ("aggregate", key.decode())):
            return False
        record = self.parked[at].record
        event_id = (record.headers or [("", None)])[0][1] or b""
        session.changes = Changes(taken={at})
        self.aside.discard(at)
        self.undecided.discard((record.input, key, record.offset))
        if not redrive:
            self.dismissed.add(event_id.decode())
        else:
            session.changes.inbox = {("test", event_id.decode())}
            session.changes.effects = [event_id.decode()]
            session.changes.order = [(record.input, key, record.offset)]
            session.changes.outbox = {self.next_id(): row_of(key.decode(), f"about {event_id.decode()}")}
        self.commit(session)
        return True


class Connection:
    """The database port of one simulated process. Implements `shared.protocol.ports.Database`."""

    def __init__(
        self,
        server: Postgres,
        at: At,
        wait: Callable[[int], None],
        later: Callable[[Callable[[], None]], None],
        rule: Callable[[str], None],
        *,
        die: Callable[[], NoReturn],
    ) -> None:
        self.server = server
        self.at = at
        self.die = die
        self._later = later
        self.wait = wait
        self.rule = rule
        self.session: Session | None = Session()
        self._old: Session | None = None
        self._slot: int | None = None
        self.attempted: set[Input] = set()
        """Inputs with a note, as `shared.postgres.transaction` knows them."""
        self.noted: set[ParkedPlace] = set()
        """Parked records with a note."""
        self.heard = server.paused
        """The topics whose pause this process knows, or has to know before it handles anything."""

    def take_slot(self) -> int | None:
        """Take the lowest free slot."""
        for slot, holder in self.server.slots.items():
            if holder is None and self._take(slot):
                return slot
        return None

    def _take(self, slot: int) -> bool:
        assert self.session is not None
        if self.server.slots[slot] not in (None, self.session):
            return False
        self.server.slots[slot] = self.session
        self.session.slot = self._slot = slot
        return True

    def lose(self) -> None:
        """Lose the session."""
        session, self.session = self.session, None
        self.noted.clear()
        self.server.ends.ended(self)
        if session is not None:
            self.server.end(session)

    def notice(self, session: Session) -> None:
        """Find out that a session is lost."""
        if self.session is session:
            self.lose()

    def lose_late(self) -> None:
        """Lose the connection with a COMMIT on its way: the session lives until the server gets it."""
        session, self.session = self.session, None
        self.noted.clear()
        self.server.ends.ended(self)
        assert session is not None
        self._old = session

        def arrive() -> None:
            self.rule("a late COMMIT arrives" if session.alive else "a late COMMIT finds its session ended")
            self.server.commit(session)
            self.server.end(session)

        self._later(arrive)

    def hold_slot(self) -> None:
        if self.at("database.hold_slot", Fault.REFUSE) is Fault.REFUSE:
            raise DatabaseUnavailable
        if self.session is not None and not self.session.alive:
            self.lose()
            raise DatabaseUnavailable  # the first question finds out that the session is lost
        if self.session is None:
            if self._old is not None and self._old.alive:
                self.rule("the old session is ended first")
                self.server.end(self._old)
            self.session, self._old = Session(), None
        assert self._slot is not None
        if not self._take(self._slot):
            self.rule("a slot is lost")
            raise SlotLost

    def begin(self) -> "PostgresTransaction":
        self._ask("database.begin")
        assert self.session is not None
        self.session.changes = Changes()
        return PostgresTransaction(self, self.session, self.session.changes)

    def positions(self, inputs: Collection[Input]) -> dict[Input, Position]:
        self._ask("database.positions")
        return {
            source: Position(self.server.positions[source], 0) for source in inputs if source in self.server.positions
        }

    def start_positions(self, beginnings: Mapping[Input, int]) -> None:
        fault = self._ask("database.start_positions", Fault.LOSE)
        for source, offset in beginnings.items():
            self.server.positions.setdefault(source, offset)
        if fault is Fault.LOSE:
            self.lose()
            raise DatabaseUnavailable

    def claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        self._ask("database.claims")
        return {
            lane: Claim(c.position, c.claim_id, len(c.ids)) for lane, c in self.server.claims.items() if lane in lanes
        }

    def waiting(self, inputs: Collection[Input]) -> dict[Input, Waiting] | None:
        self._ask("database.waiting")
        if not self.server.parks:
            return None
        found: dict[Input, Waiting] = {}
        for source in sorted(inputs):
            if records := [one.record for one in self.server.parked.values() if one.record.input == source]:
                keys = len({record.key for record in records})
                found[source] = Waiting(len(records), sum(map(size, records)), keys, 0.0, 0.0)
        return found

    def next_parked(self, inputs: Collection[Input], most: int) -> list[ParkedRecord]:
        fault = self._ask("database.next_parked", Fault.LOSE)
        self.server.ends.outlived(self)
        self._withdraw()
        found = [one for _, one in sorted(self.server.parked.items(), key=lambda item: item[0]) if one[0][0] in inputs]
        found = [one for one in found if self.server.free(one)]
        first = {(one.record.input, one.record.key): one for one in reversed(found)}
        due = {key for key, one in first.items() if place(one) not in self.server.postponed}
        self.server.postponed.clear()
        found = [one for one in found if (one.record.input, one.record.key) in due]
        suspects = [one for one in first.values() if one.ends]
        chosen = suspects[:1] or found[:most]
        for one in chosen:
            ends = max(one.ends, 1) + 1 if len(chosen) == 1 else 1
            self.server.parked[place(one)] = one._replace(ends=ends)
            self.noted.add(place(one))
        self.server.ends.begun(self, [one.record for one in chosen])
        if fault is Fault.LOSE:
            self.lose()
            raise DatabaseUnavailable
        return chosen

    def tried(self, again: Sequence[ParkedRecord], failed: ParkedRecord | None, error: Exception) -> None:
        fault = self._ask("database.tried", Fault.LOSE)
        self.server.ends.outlived(self)
        self._withdraw()
        if failed is not None and place(failed) in self.server.parked:
            self.server.parked[place(failed)] = failed._replace(ends=0, attempts=failed.attempts + 1)
            self.server.postponed.add(place(failed))
        if fault is Fault.LOSE:
            self.lose()
            raise DatabaseUnavailable

    def _withdraw(self) -> None:
        """Withdraw the notes of parked records whose attempt this process outlived."""
        for at in self.noted & self.server.parked.keys():
            self.server.parked[at] = self.server.parked[at]._replace(ends=0)
        self.noted.clear()

    def attempt(self, records: Sequence[Record]) -> None:
        outlived = frozenset(self.attempted)
        self.attempted |= {record.input for record in records}
        fault = self._ask("database.attempt", Fault.LOSE)
        self.server.ends.outlived(self)
        self.server.forget_notes(outlived)
        self.server.note(records)
        self.server.ends.begun(self, records)
        if fault is Fault.LOSE:
            self.lose()
            raise DatabaseUnavailable

    def attempts(self) -> dict[Input, Attempt]:
        """Return what `shared.postgres.transaction.WorkerDatabase` does; the main loop asks after each adoption."""
        self._ask("database.attempts")
        self.server.ends.outlived(self)
        self.server.forget_notes(self.attempted)
        self.attempted.clear()
        self.server.forget_notes([s for s, note in self.server.notes.items() if self.server.positions[s] > note.last])
        return {source: Attempt(*note, ProcessEnded()) for source, note in self.server.notes.items()}

    def paused(self) -> frozenset[str]:
        """Return the topics that are paused, as the main loop asks after each adoption."""
        self._ask("database.paused")
        return self.observe_pauses()

    def observe_pauses(self) -> frozenset[str]:
        """Return them as the observer does, which has a session of its own."""
        self.heard = self.server.paused
        return self.heard

    def outlive(self) -> None:
        """Withdraw the notes if the session lives: otherwise their record may be the reason."""
        if self.session is None or not self.session.alive:
            self.attempted.clear()
        if self.attempted and self.at("database.outlive", Fault.REFUSE) is not Fault.REFUSE:
            self.rule("a process outlives an attempt")
            self.server.ends.outlived(self)
            self.server.forget_notes(self.attempted)
            self.attempted.clear()

    def unpublished(self, lanes: Collection[int]) -> bool:
        self._ask("database.unpublished")
        claimed = {row_id for claim in self.server.claims.values() for row_id in claim.ids}
        return any(lane_of(row.key) in lanes for row_id, row in self.server.outbox.items() if row_id not in claimed)

    def _ask(self, call: str, *more: Fault) -> Fault:
        """Run a short transaction, or begin one."""
        fault = self.at(call, Fault.REFUSE, Fault.CUT, *more)
        if self.session is None:
            raise SlotInDoubt
        if fault is Fault.CUT or not self.session.alive:
            self.lose()
            raise SlotInDoubt if call == "database.begin" else DatabaseUnavailable
        if fault is Fault.REFUSE:
            raise DatabaseUnavailable
        return fault


class PostgresTransaction:
    """Implements `shared.protocol.ports.Transaction`."""

    def __init__(self, connection: Connection, session: Session, changes: Changes) -> None:
        self._connection = connection
        self._server = connection.server
        self._session = session
        self._changes = changes
        self._collected: list[OutboxRow] = []
        self._crashes = False
        """Whether the server's process crashes at the COMMIT."""

    def _at(self, call: str, *more: Fault) -> Fault:
        fault = self._connection.at(f"transaction.{call}", Fault.REFUSE, Fault.CUT, *more)
        if fault is Fault.CUT:
            self._connection.lose()
        if call != "commit":
            self._alive()
            if fault is Fault.REFUSE:
                raise DatabaseUnavailable
        return fault

    def _alive(self) -> None:
        if not self._session.alive:
            self._connection.notice(self._session)
            raise SlotInDoubt

    def _lock(self, row: object) -> None:
        for _ in range(LOCK_ROUNDS):
            if self._server.try_lock(self._session, row):
                return
            self._connection.rule("a lock is waited for")
            self._connection.wait(1)
            self._alive()
        self._connection.rule("a lock times out")
        raise DatabaseUnavailable

    def _position(self, source: Input) -> int | None:
        return self._changes.positions.get(source, self._server.positions.get(source))

    def _claim(self, lane: int) -> Claimed:
        return self._changes.claims.get(lane, self._server.claims[lane])

    def _waiting(self, lane: int) -> list[int]:
        rows = self._server.outbox | self._changes.outbox
        return sorted(i for i, row in rows.items() if lane_of(row.key) == lane and i not in self._changes.deleted)

    def receive(self, inputs: Collection[Input], arrivals: Sequence[Arrival]) -> Received:
        self._at("receive")
        for source in sorted(inputs):
            self._lock(source)
        keys = {(one.record.input, one.record.key or b"") for one in self._server.parked.values()}
        found = {source: self._position(source) for source in inputs}
        positions = {source: Position(offset, 0) for source, offset in found.items() if offset is not None}
        ids = [(a.source, a.event_id) for a in arrivals if a.offset >= (found[a.input] or 0)]
        for identity in sorted(set(ids)):
            self._lock(identity)
        new = set(ids) - self._server.inbox - self._changes.inbox
        if len(new) < len(ids):
            self._connection.rule("the inbox drops an event")
        self._changes.inbox |= new
        held = keys & {(arrival.input, arrival.key) for arrival in arrivals}
        return Received(positions, new, held)

    def park(self, parked: Sequence[NewParked]) -> None:
        self._at("park")
        for one in parked:
            made = ParkedRecord(one.record, one.epoch, one.source, one.event_id, int(one.error is not None), 0)
            self._changes.parked[place(one)] = made
            if one.aside:
                self._changes.aside.add(place(one))
                self._connection.rule("a dead letter holds its key")
                continue
            self._connection.rule("a record is parked" if one.error else "a record is parked behind another of its key")

    def forget_received(self, parked: Sequence[ParkedRecord]) -> None:
        self._at("forget_received")
        self._changes.unreceived |= {(one.source, one.event_id) for one in parked}

    def take(self, parked: Sequence[ParkedRecord]) -> list[ParkedRecord]:
        self._at("take")
        for one in parked:
            self._lock(("parked", *place(one)))
        there = [one for one in parked if place(one) in self._server.parked and self._server.free(one)]
        if len(there) < len(parked):
            self._connection.rule("a parked record is gone")
        self._changes.taken |= {place(one) for one in there}
        return there

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        first = deliveries[0].record[:2] if deliveries else None
        # What fails twice alone is set aside, rightly; here each record fails once.
        poison = (Fault.POISON,) if first not in {None, *self._server.failed} else ()
        fault = self._at("handle", *poison, *((Fault.RETRY,) if deliveries else ()))
        if fault in {Fault.POISON, Fault.RETRY}:
            self._server.failed += [first] if fault is Fault.POISON else []
            raise HandlingFailed(deliveries[0].record) from (Retry() if fault is Fault.RETRY else ValueError())
        for delivery in deliveries:
            if delivery.record.input.topic in self._connection.heard:
                raise Violated(f"handled though it was known to be paused: {name_of(delivery.record)}")
            envelope, word = delivery.envelope, (delivery.record.value or b"").decode()
            if word.startswith("^") and self._server.tried[name_of(delivery.record)] < RETRIES:
                self._server.tried[name_of(delivery.record)] += 1
                raise HandlingFailed(delivery.record) from Retry()
            word = word.removeprefix("^")
            if word.startswith("*"):
                raise HandlingFailed(delivery.record) from Reject()
            if word.startswith("#"):
                self._connection.rule("a record ends its process")
                self._connection.die()
            self._crashes |= word.startswith("%")
            self._lock(("aggregate", envelope.key))
            try:
                self._collected += self._server.handler(delivery)
            except Exception as error:
                raise HandlingFailed(delivery.record) from error
            self._changes.effects.append(envelope.id)
            self._changes.handled.add(name_of(delivery.record))
            self._changes.order.append((delivery.record.input, delivery.record.key or b"", delivery.record.offset))

    def set_aside(self, dead_letters: Sequence[NewDeadLetter]) -> None:
        self._at("set_aside")
        self._changes.dead_letters += dead_letters
        for dead_letter in dead_letters:
            key = dead_letter.envelope.key if dead_letter.envelope else str(dead_letter.record.input)
            self._collected.append(row_of(key, f"set aside {name_of(dead_letter.record)}"))
        self._changes.ended |= {
            dead_letter.record[:2] for dead_letter in dead_letters if isinstance(dead_letter.error, ProcessEnded)
        }

    def write_outbox(self) -> None:
        self._at("write_outbox")
        for row in self._collected:
            if self._server.too_large(row):
                raise HandlingFailed(None) from Reject(f"{row.event_id} is too large")
        self._changes.outbox |= {self._server.next_id(): row for row in self._collected}
        self._collected = []

    def advance(self, positions: Mapping[Input, int]) -> None:
        self._at("advance")
        for source, offset in positions.items():
            self._lock(source)
            if self._position(source) is not None:
                self._changes.positions[source] = max(offset, self._position(source) or 0)
        self._changes.forgotten |= self._connection.attempted

    def lock_claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        self._at("lock_claims")
        for lane in sorted(lanes):
            self._lock(lane)
        return {lane: Claim(c.position, c.claim_id, len(c.ids)) for lane, c in self._claims(lanes).items()}

    def _claims(self, lanes: Collection[int]) -> dict[int, Claimed]:
        return {lane: self._claim(lane) for lane in lanes if lane in self._server.claims}

    def forget(self, lanes: Collection[int]) -> None:
        self._at("forget")
        for lane, claim in self._claims(lanes).items():
            self._lock(lane)
            self._changes.deleted |= set(claim.ids)
            self._changes.claims[lane] = claim._replace(ids=())

    def claim(
        self, limits: Mapping[int, int], unpublished: Collection[int]
    ) -> tuple[dict[int, Claim], Sequence[OutboxRow]]:
        self._at("claim")
        claims = self._name({lane: self._waiting(lane)[:limit] for lane, limit in limits.items()}, 1)
        return claims, self._rows({*claims, *unpublished})

    def claim_less(self, limits: Mapping[int, int]) -> dict[int, Claim]:
        self._at("claim_less")
        self._connection.rule("a claim is made smaller")
        return self._name({lane: list(self._claim(lane).ids[:limit]) for lane, limit in limits.items()}, 0)

    def _name(self, rows: Mapping[int, list[int]], step: int) -> dict[int, Claim]:
        named = {}
        for lane, ids in rows.items():
            if ids:
                self._lock(lane)
                claim = Claimed(self._claim(lane).position + step, f"claim {self._server.next_id()}", tuple(ids))
                self._changes.claims[lane] = claim
                named[lane] = Claim(claim.position, claim.claim_id, len(ids))
        return named

    def claimed(self, lanes: Collection[int]) -> Sequence[OutboxRow]:
        self._at("claimed")
        return self._rows(lanes)

    def _rows(self, lanes: Collection[int]) -> list[OutboxRow]:
        rows = self._server.outbox | self._changes.outbox
        return [rows[i] for lane in sorted(lanes) for i in sorted(self._claim(lane).ids) if i in rows]

    def commit(self) -> None:
        fault = self._at("commit", Fault.LOSE, Fault.LATE, Fault.DIE_LATE)
        if not self._session.alive:
            self._connection.notice(self._session)
            raise DatabaseInDoubt
        if self._crashes:
            self._connection.rule("a record ends its session")
            self._connection.lose()
            raise DatabaseInDoubt
        if fault is Fault.REFUSE:
            raise DatabaseUnavailable
        if fault is Fault.LATE:
            self._connection.lose_late()
            raise DatabaseInDoubt
        forgotten = self._changes.forgotten
        self._server.commit(self._session)
        self._connection.attempted -= forgotten
        if fault is Fault.LOSE:
            self._connection.lose()
            raise DatabaseInDoubt

    def rollback(self) -> None:
        if self._connection.session is self._session:
            self._server.rollback(self._session)
        if not self._session.alive:
            self._server.ends.ended(self._connection)
        self._connection.outlive()


def holds(record: Record) -> bool:
    """Whether later words of its key wait if it is set aside: one that begins with "*", which no handler takes."""
    return (record.value or b"").decode().lstrip("^?").startswith("*")


def name_of(record: Record) -> str:
    """Return the name of a record."""
    return f"{record.input}@{record.offset}"


def tell(delivery: Delivery) -> Sequence[OutboxRow]:
    """Publish an event about another."""
    return [row_of(delivery.envelope.key, f"about {delivery.envelope.id}")]


def row_of(key: str, event_id: str) -> OutboxRow:
    """Return a row of the outbox."""
    return OutboxRow("published", key, event_id, "Word", 1, "", b"", None)
