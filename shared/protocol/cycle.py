"""The cycle of a worker: the only file that knows the order of the commits.

There are two commits, always in the same order, and two positions, each stored with its effect. Postgres knows what was
handled: the next offset of an input is committed with the handlers' effects. Kafka knows what was published: the
published position of a lane is committed with its records. Neither system is trusted about the other's position, so
both stay true after a crash anywhere, and recovery reads both and continues.

    1    poll a batch, and take the group metadata of this batch
    2    Postgres transaction
    2.1    lock the positions of the batch's inputs; drop records below the next offset
    2.2    inbox: drop events that were received before. Park records whose key is held, and those that have to wait;
           a dead letter that holds its key keeps a place among them
    2.3    run the handlers; collect what the handlers return
    2.4    flush their changes, then insert into the outbox
    2.5    move the next offset past the batch
    2.6    lock the claim of every lane whose published position is known. A claim one above it: its rows are still
           unpublished. Equal: Kafka has its rows, if no connection was lost since; delete them, and claim the next
           ones under a new claim id and the next position
    2.7    COMMIT
    3    Kafka transaction: the claimed rows, the claim's position as the published one, next offsets for lag tools
    4    the published position is now that of the claim

A cycle stops after 1 if nothing has an effect. Records of types that the service does not consume, and control markers,
move the next offset with the next effect or the next report; so do rows that Kafka has leave the outbox.

Parked records (`shared.protocol.parking`) are tried between cycles, by whoever owns their input:

    P1   choose records that are due, and note the attempt
    P2   Postgres transaction
    P2.1   lock the positions of their inputs; delete their rows; drop those that were gone, or are behind a dead letter
    P2.2   run the handlers, under the ids that the records had; flush, then insert into the outbox
    P2.3   COMMIT; the next cycle publishes
    P3   if that failed: withdraw the notes, all but that of the record that failed, which is due later

Anything but plain success of 2.7, P2.3 or 3 leads to the one recovery:

    R0   make sure that this worker still holds its slot
    R1   replace the producer, under the same transactional.id, which ends the old one's transaction; wait for that end
    R2   read the committed offsets from Kafka
    R3   only then read the next offset and the claims from Postgres, then what is parked; compare; commit position 0
         of a lane that was never claimed
    R4   read the inputs from their next offsets on

An assignment does R2 to R4, and so does a change of the topics that an operator has paused, whose inputs R4 leaves out.
Why each step is needed is in docs/protocol.md. This file talks to the world through the two ports of
`shared.protocol.ports` and has no clock, no thread and no randomness of its own, so that a simulation can run it.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..configuration.program import program
from ..errors import (
    ContentRefused,
    ContentStuck,
    ExactlyOnceError,
    GenerationLost,
    HandlingFailed,
    Malformed,
    ParkingFull,
    ProcessEnded,
    RecoveryNeeded,
    Reject,
)
from .attempts import Attempt
from .intake import Intake
from .parking import Bounds, Parking, Place, nearest, place
from .ports import (
    NOTHING,
    Arrival,
    Assignment,
    Claim,
    Committed,
    Database,
    Delivery,
    Input,
    Kafka,
    NewDeadLetter,
    NewParked,
    Opened,
    OutboxRow,
    ParkedRecord,
    Polled,
    Position,
    Record,
    Transaction,
    Waiting,
)
from .verdicts import Comparison, compare_input, compare_lane

RESUMES_MAX = 20
"""Restarts of one resume because the group changed meanwhile; more mean that the group does not settle."""


@dataclass(frozen=True)
class Limits:
    """How much one cycle takes on."""

    records: int
    rows: int
    """Outbox rows of one lane in one claim."""
    retries: int = 0
    """Set a record aside after this many `Retry`s; 0: never."""
    parked: Bounds | None = None
    """How much of one input may be parked; None: a `Retry` lets its whole input wait."""


@dataclass
class Progress:
    """What one cycle did."""

    received: int = 0
    handled: int = 0
    duplicates: int = 0
    skipped: int = 0
    handled_types: frozenset[str] = frozenset()
    handled_inputs: frozenset[Input] = frozenset()
    set_aside: list[NewDeadLetter] = field(default_factory=list)
    parked: list[NewParked] = field(default_factory=list)
    published: int = 0
    idle: bool = False
    """There was nothing to do."""
    failed: Exception | None = None
    """Why the batch was rolled back; the next cycle leaves out what made it fail."""
    failed_at: Record | None = None
    """The record that made it fail; None if that is not known yet."""
    failed_parked: ParkedRecord | None = None
    """The same, if it is parked and waits for its next turn."""


class _Read(NamedTuple):
    """A record that was read, before it is known whether it was handled already."""

    record: Record
    opened: Opened | None = None
    rejected: Exception | None = None
    """Why it is to be set aside."""
    failed: Exception | None = None
    """Why it cannot be read now."""

    @property
    def matters(self) -> bool:
        """Whether it has an effect, if it was not handled before."""
        return self != (self.record, None, None, None)


class Cycle:
    """One worker's cycle over its two ports.

    `open_record` reads a record: None for a type that the service does not consume. It raises `Malformed`, or `Retry`
    for an unknown version. `holds` says whether later records of its key wait, if it becomes a dead letter.
    """

    def __init__(
        self,
        service: str,
        kafka: Kafka,
        database: Database,
        open_record: Callable[[Record], Opened | None],
        limits: Limits,
        *,
        holds: Callable[[Record], bool] | None = None,
    ) -> None:
        self._service = service
        self._kafka = kafka
        self._database = database
        self._open = open_record
        self._holds = holds or (lambda _: False)
        self._limits = limits
        self._owned: Assignment = NOTHING
        self._paused_topics: frozenset[str] = frozenset()
        # Lanes whose claim Kafka refused for its content are published alone, in ever smaller claims. The limits
        # survive a recovery, because the rows do.
        self._claim_limits: dict[int, int] = {}
        self.resumes = 0
        """How often a share was taken over; each time everything is forgotten, including what `beware` reported."""
        self._forget()

    def _forget(self) -> None:
        """Forget everything that was read or concluded: nothing survives a doubt or a change of the assignment."""
        self._resumed = False
        """Whether the rest of this is known for what is owned now."""
        self._published: dict[int, Committed] = {}
        """The published position of each lane owned, with its claim id."""
        self._seen: dict[Input, int] = {}
        """The next offset that this worker read or committed last. A row below it means that Postgres went back."""
        self._reported: dict[Input, int] = {}
        self._claimed = False
        """Whether claims may have rows that Kafka does not have."""
        self._spent = False
        """Whether claims may have rows that Kafka has."""
        self._full = False
        """Whether the last claims had no room for more rows: then nobody needs to ask whether there are any."""
        self._read_inputs = frozenset(i for i in self._owned.inputs if i.topic not in self._paused_topics)
        """The inputs owned that are not paused by an operator: nothing else is fetched, or tried again."""
        self._intake = Intake(self._read_inputs, self._limits.records, self._limits.retries)
        self._parking = Parking(self._limits.parked, self._limits.records, self._limits.retries)
        self._paused: frozenset[Input] = frozenset()

    @property
    def owned(self) -> Assignment:
        """The share of the group's work that this worker owns."""
        return self._owned

    @property
    def seen(self) -> dict[Input, int]:
        """The next offset of the inputs owned."""
        return self._seen

    @property
    def paused(self) -> frozenset[str]:
        """The topics of inputs owned that an operator has paused."""
        return frozenset(source.topic for source in self._owned.inputs - self._read_inputs)

    def parked(self) -> dict[Input, int]:
        """Inputs parked after a `Retry`, and how often the record they wait for was tried."""
        return self._intake.parked()

    def waits_for(self, source: Input) -> tuple[Record, Exception]:
        """The record for which `source` is parked, and the error."""
        return self._intake.waits_for(source)

    @property
    def waiting(self) -> dict[Input, Waiting]:
        """How much is parked of which of the inputs owned, as far as this worker knows."""
        return self._parking.waiting

    @property
    def due_seconds(self) -> float:
        """Until the first parked record was due when they were last counted."""
        return min((waiting.due_seconds for waiting in self._parking.waiting.values()), default=math.inf)

    @property
    def parking_filled(self) -> float:
        """How near the fullest input is to a bound of what may be parked: 1: it has reached it."""
        return nearest(self._limits.parked, self._parking.waiting)

    def beware(self, source: Input, offset: int, ends: int, error: Exception) -> None:
        """Note that `ends` processes in a row ended at a record: it is tried alone, or set aside for `error`."""
        self._intake.beware(source, offset, ends, error)
        self._parking.beware(source, offset, ends, error)

    def suspect(self, source: Input, attempt: Attempt) -> None:
        """Note the records of `source` that a killed process was handling."""
        self._intake.suspect(source, attempt)

    def pace(self, records: int) -> None:
        """Keep batches from growing much beyond `records`, which took long."""
        self._intake.pace(records)

    def pause(self, topics: frozenset[str]) -> None:
        """Handle nothing of `topics` from the next cycle on, and all others again. The share is taken over anew if that
        changes it, as after an assignment: what was fetched and not handled is fetched again when its turn comes.
        """
        changed, self._paused_topics = self._paused_topics ^ topics, topics
        if any(source.topic in changed for source in self._owned.inputs):
            self._resumed = False

    def unpark(self, source: Input) -> None:
        """Try the record again for which `source` is parked."""
        self._intake.unpark(source)

    def run(self, seconds: float, *, report: bool) -> Progress:
        """Run one cycle, waiting up to `seconds` for records; `report` reports next offsets to Kafka even if nothing is
        to be published.

        Raises `RecoveryNeeded`, after which only `recover` may be called; `Unavailable`, after which the cycle may be
        run again; `Stop` or `Exit`.
        """
        polled = self._poll(seconds)  # 1
        if not self._resumed:
            self._resume()
            return Progress()
        batch = self._intake.batch()
        progress = Progress(received=len(batch))
        if watched := self._intake.watched(batch):
            self._database.attempt(batch)
        read = [self._read(record, self._intake.rejected(record)) for record in batch]
        if batch and not watched and not any(one.matters for one in read):
            self._intake.passed(batch)
            progress.skipped, batch, read = len(batch), [], []
        ended = self._intake.ended(self._seen) if report else {}
        if not batch and not ended and not (report and (self._spent or self._unreported())) and not self._unpublished():
            progress.idle = not progress.skipped
            return progress

        transaction = self._database.begin()  # 2
        try:
            moved = self._handle(transaction, read, ended, progress)
            claims, rows = self._claim(transaction)
            transaction.commit()  # 2.7
        except HandlingFailed as failure:
            transaction.rollback()
            failed, failed_at = self._intake.failed(failure, batch)
            return Progress(received=len(batch), failed=failed, failed_at=failed_at)
        except BaseException:
            transaction.rollback()
            raise
        self._intake.handled(batch, progress.handled_inputs)
        self._parking.waiting = self._parking.add(progress.parked)
        self._seen.update(moved)
        self._claimed, self._spent = bool(claims), self._spent and bool(self._claim_limits)
        self._full = any(claim.rows >= self._limits.rows for claim in claims.values())

        if claims or (report and self._unreported()):
            self._publish(claims, rows, self._seen if report else moved, polled.group_metadata)  # 3 and 4
            progress.published = len(rows)
        return progress

    def retry(self, *, count: bool) -> Progress:
        """Try parked records that are due, if this worker knows of any; `count` those that wait before. Raises what
        `run` raises.
        """
        if not self._resumed or not self._parking.waiting:
            return Progress(idle=True)
        if count:
            self._parking.waiting = self._database.waiting(self._read_inputs) or {}
        tried = self._database.next_parked(self._read_inputs, self._parking.limit)  # P1
        if not tried:
            return Progress(idle=True)
        progress = Progress(received=len(tried))
        transaction = self._database.begin()  # P2
        try:
            tried = self._handle_parked(transaction, tried, progress)
            transaction.commit()  # P2.3
        except HandlingFailed as failure:
            transaction.rollback()
            cause, waits, again = self._parking.failed(failure, tried)
            self._database.tried(again, waits, cause)  # P3
            record = failure.record if isinstance(failure.record, Record) else None
            return Progress(received=len(tried), failed=cause, failed_at=record, failed_parked=waits)
        except Exception as error:
            transaction.rollback()
            with suppress(ExactlyOnceError):  # a lost session keeps its notes: its record may be the reason
                self._database.tried(*self._parking.interrupted(tried), error)  # P3
            raise
        except BaseException:
            transaction.rollback()
            raise
        self._parking.done(tried)
        return progress

    def recover(self) -> None:
        """Recover from any doubt; then `run` may be called again. Raises what `run` raises."""
        self._forget()
        self._database.hold_slot()  # R0
        self._kafka.renew()  # R1
        self._resume()

    # ---- 1

    def _poll(self, seconds: float) -> Polled:
        room = self._intake.room()
        self._pause(frozenset(self._read_inputs if room <= 0 else self._intake.parked()))
        polled = self._kafka.poll(max(room, 1), seconds if self._intake.idle() else 0)
        if polled.assigned is not None:
            self._owned = polled.assigned
            self._resumed = False
        elif polled.group_metadata is None and self._owned != NOTHING:
            # Removed from the group: another worker owns the share until the group assigns a new one.
            self._owned = NOTHING
            self._resumed = False
        self._intake.add(polled)
        return polled

    def _pause(self, wanted: frozenset[Input]) -> None:
        if wanted - self._paused:
            self._kafka.pause(wanted - self._paused)
        if self._paused - wanted:
            self._kafka.resume(self._paused - wanted)
        self._paused = wanted

    def _unreported(self) -> bool:
        """Whether next offsets moved since they were reported to Kafka. Without a lane no Kafka transaction could
        report them.
        """
        return bool(self._published) and self._reported != self._seen

    def _unpublished(self) -> bool:
        if not self._published:
            return False
        return self._claimed or self._full or self._database.unpublished(self._published.keys())

    # ---- 2

    def _handle(
        self, transaction: Transaction, read: Sequence[_Read], ended: dict[Input, int], progress: Progress
    ) -> dict[Input, int]:
        """Steps 2.1 to 2.5; return the next offset of every input that moved."""
        sources = sorted({one.record.input for one in read} | ended.keys())
        if not sources:
            return {}
        positions, new, held = transaction.receive(sources, _arrivals(read))  # 2.1 and 2.2
        self._refuse_older(positions, sources)
        # A worker that stalled may have moved it, and have parked what is dropped here.
        self._parking.suspect(source for source in sources if positions[source].next_offset > self._seen[source])
        fresh = [one for one in read if one.record.offset >= positions[one.record.input].next_offset]
        opened = _opened((one, positions[one.record.input].epoch) for one in fresh)
        deliveries: list[Delivery] = []
        dead_letters: list[NewDeadLetter] = []
        parked: list[NewParked] = []
        for delivery in opened:
            key = _key(delivery.record)
            if isinstance(delivery, NewDeadLetter):
                dead_letters.append(delivery)
                if self._holds(delivery.record):
                    parked.append(_in_its_place(delivery, first=key not in held))
                    held.add(key)
                continue
            identity = (delivery.envelope.source, delivery.envelope.id)
            if identity not in new:
                continue
            new.discard(identity)  # a duplicate in the same batch is dropped too
            why = self._intake.to_park(delivery.record)
            if why is None and key not in held:
                deliveries.append(delivery)
            else:
                parked.append(NewParked(delivery.record, delivery.epoch, *identity, why, first=key not in held))
                held.add(key)
        self._parking.add(parked)
        if parked and not self._intake.parks_keys:
            raise HandlingFailed(parked[0].record) from ParkingFull(
                f"{parked[0].record.input} waits, and not only the key: the last `post` migration has not run"
            )
        transaction.handle(deliveries)  # 2.3
        transaction.set_aside(dead_letters)
        if parked:
            transaction.park(parked)
        transaction.write_outbox()  # 2.4
        moved = {source: max(end, positions[source].next_offset) for source, end in ended.items()}
        for record, *_ in read:
            moved[record.input] = max(record.offset + 1, positions[record.input].next_offset)
        transaction.advance(moved)  # 2.5
        progress.handled = len(deliveries)
        progress.handled_types = frozenset(delivery.envelope.type for delivery in deliveries)
        progress.handled_inputs = frozenset(delivery.record.input for delivery in deliveries)
        progress.skipped += len(fresh) - len(opened)
        waits = sum(not one.aside for one in parked)
        progress.duplicates = len(read) - len(fresh) + len(opened) - len(dead_letters) - len(deliveries) - waits
        progress.set_aside, progress.parked = dead_letters, parked
        return moved

    def _refuse_older(self, positions: Mapping[Input, Position], sources: Iterable[Input]) -> None:
        for source in sources:
            if source not in positions or positions[source].next_offset < self._seen[source]:
                raise RecoveryNeeded(f"{source}: the database went back below {self._seen[source]}")

    def _handle_parked(
        self, transaction: Transaction, tried: Sequence[ParkedRecord], progress: Progress
    ) -> list[ParkedRecord]:
        """Steps P2.1 and P2.2; return those that were not left behind a new dead letter."""
        read: dict[Place, _Read] = {}
        held: set[tuple[Input, bytes]] = set()
        for parked in tried:
            if _key(parked.record) not in held:
                found = read[place(parked)] = self._read_parked(parked)
                if found.rejected is not None and self._holds(parked.record):
                    held.add(_key(parked.record))
        tried = [parked for parked in tried if place(parked) in read]
        sources = sorted({parked.record.input for parked in tried})
        self._refuse_older(transaction.receive(sources, ()).positions, sources)  # P2.1
        there = transaction.take(tried)
        opened = _opened((read[place(parked)], parked.epoch) for parked in there)
        deliveries = [one for one in opened if isinstance(one, Delivery)]
        dead_letters = [one for one in opened if isinstance(one, NewDeadLetter)]
        transaction.handle(deliveries)  # P2.2
        transaction.set_aside(dead_letters)
        aside = {dead_letter.record[:2] for dead_letter in dead_letters}
        if aside:
            transaction.forget_received([parked for parked in there if parked.record[:2] in aside])
        if holding := [_in_its_place(one, first=False) for one in dead_letters if self._holds(one.record)]:
            transaction.park(holding)
        transaction.write_outbox()
        progress.handled = len(deliveries)
        progress.handled_types = frozenset(delivery.envelope.type for delivery in deliveries)
        progress.duplicates = len(tried) - len(there)
        progress.set_aside = dead_letters
        return tried

    def _read_parked(self, parked: ParkedRecord) -> _Read:
        found = self._read(parked.record, self._parking.rejected(parked))
        if found.matters:
            return found
        gone = "no handler of this service takes events of its type any more, so no attempt can succeed"
        return found._replace(rejected=Reject(gone))

    def _read(self, record: Record, rejected: Exception | None) -> _Read:
        try:
            # Reading it may be what ends the process.
            return _Read(record, None if isinstance(rejected, ProcessEnded) else self._open(record), rejected)
        except Malformed as error:
            return _Read(record, rejected=rejected or error)
        except Exception as error:  # noqa: BLE001 - a `Retry`, or anything that a foreign record can cause
            return _Read(record, rejected=rejected, failed=error if rejected is None else None)

    def _claim(self, transaction: Transaction) -> tuple[dict[int, Claim], Sequence[OutboxRow]]:
        """Step 2.6; return the claims whose rows are to be published, and these rows."""
        if not self._published:
            return {}, ()
        found = transaction.lock_claims(self._published.keys())
        unpublished: dict[int, Claim] = {}
        done: dict[int, int] = {}
        for lane, published in self._published.items():
            claim = found.get(lane)
            if claim is not None and claim.position == published.offset + 1:
                unpublished[lane] = claim
            elif claim is not None and claim == (published.offset, published.metadata, claim.rows):
                done[lane] = self._limits.rows
            else:
                raise RecoveryNeeded(
                    f"lane {lane}: the published position is {published.offset}, the claim is {claim}; another "
                    "worker may own the lane"
                )
        if self._claim_limits and unpublished:
            return self._claim_carefully(transaction, unpublished)
        self._claim_limits.clear()
        spent = [lane for lane in done if found[lane].rows]
        if spent or any(found[lane].position == 0 for lane in done):
            self._kafka.confirm()
        if spent:
            transaction.forget(spent)
        claims, rows = transaction.claim(done, unpublished)
        return unpublished | claims, rows

    def _claim_carefully(
        self, transaction: Transaction, unpublished: dict[int, Claim]
    ) -> tuple[dict[int, Claim], Sequence[OutboxRow]]:
        """While Kafka refuses a row, publish one lane at a time and halve its claim until the row is alone."""
        lane, claim = min(unpublished.items())
        limit = self._claim_limits.get(lane, claim.rows)
        claims = transaction.claim_less({lane: limit}) if limit < claim.rows else {lane: claim}
        return claims, transaction.claimed(claims)

    # ---- 3 and 4

    def _publish(
        self, claims: dict[int, Claim], rows: Sequence[OutboxRow], sources: Collection[Input], group_metadata: Any
    ) -> None:
        lanes = {lane: Committed(claim.position, claim.claim_id) for lane, claim in claims.items()}
        inputs = {source: self._seen[source] for source in sources}
        try:
            self._kafka.begin()
            self._kafka.produce(rows)
            self._kafka.send_offsets(inputs, lanes, group_metadata)
            self._kafka.commit()
        except ContentRefused as error:
            if len(rows) == 1:
                raise self._stuck(claims, rows[0], error) from error
            self._claim_limits = {lane: max(1, claim.rows // 2) for lane, claim in claims.items()}
            raise
        self._published.update(lanes)  # 4
        self._reported.update(inputs)
        self._claimed = bool(self._claim_limits)
        self._spent = self._spent or bool(claims)

    def _stuck(self, claims: dict[int, Claim], row: OutboxRow, error: Exception) -> ContentStuck:
        return ContentStuck(
            f"lane {next(iter(claims))}: Kafka refuses {row.event_type} {row.event_id} for {row.topic}: {error}. "
            f"Look at it with `{program(self._service)} outbox show {row.event_id}`; set it aside with "
            f"`{program(self._service)} outbox set-aside {row.event_id}`",
            row.event_id,
        )

    # ---- assignment and recovery

    def _resume(self) -> None:
        """Take over the share that is owned now, only from what the two systems have stored."""
        for _ in range(RESUMES_MAX):
            self._forget()
            changed = self._compare(self._owned)
            if changed is None:
                self._kafka.read_from({i: self._seen[i] for i in self._read_inputs}, self._owned.lanes)  # R4
                self._resumed = True
                self.resumes += 1
                return
            self._owned = changed
        raise GenerationLost("the group does not come to rest")

    def _compare(self, share: Assignment) -> Assignment | None:
        """R2 and R3: set published positions and next offsets of `share`. Return the new share if the group
        changed meanwhile.
        """
        committed = self._kafka.committed(share.inputs, share.lanes)  # R2
        positions = self._database.positions(share.inputs)  # R3
        claims = self._database.claims(share.lanes)
        first = [
            i
            for i in share.inputs
            if compare_input(self._service, i, committed.get(i), positions.get(i)) is Comparison.FIRST
        ]
        verdicts = {
            lane: compare_lane(self._service, lane, committed.get(lane), claims.get(lane), published_read_last=False)
            for lane in share.lanes
        }
        doubtful = [lane for lane, comparison in verdicts.items() if comparison is not Comparison.AGREED]
        if doubtful:
            # A worker that lost the lane may have an outdated view and see "missing" or "too low": ask the group, then
            # read the published position again, after the row.
            polled = self._kafka.poll(1, 0)
            if polled.assigned is not None:
                return polled.assigned
            if polled.group_metadata is None:
                raise GenerationLost("the consumer is no member of its group any more")
            committed |= self._kafka.committed((), doubtful)
            new = []
            for lane in doubtful:
                published = committed.get(lane)
                if published is not None and published.offset > claims[lane].position:
                    raise RecoveryNeeded(f"lane {lane}: the published position moved while it was compared")
                if (
                    compare_lane(self._service, lane, published, claims[lane], published_read_last=True)
                    is Comparison.FIRST
                ):
                    new.append(lane)
            if new:
                self._first(new, polled.group_metadata, committed)
        if first:
            self._database.start_positions({source: self._kafka.beginning(source) for source in first})
            positions |= self._database.positions(first)
        self._published = {lane: committed[lane] for lane in share.lanes}
        self._claimed = any(claims[lane].position != committed[lane].offset for lane in share.lanes)
        self._spent = any(claims[lane].rows for lane in share.lanes)
        self._seen = {source: positions[source].next_offset for source in share.inputs}
        waiting = self._database.waiting(self._read_inputs)  # after `positions`
        self._intake.parks_keys = waiting is not None and self._limits.parked is not None
        self._parking.waiting = waiting or {}
        self._reported = {i: committed[i].offset for i in share.inputs if i in committed}
        return None

    def _first(self, lanes: Sequence[int], group_metadata: Any, committed: dict[Input | int, Committed]) -> None:
        """Commit position 0 before the first claim ever: a position missing after that was lost."""
        start: dict[int, Committed] = dict.fromkeys(lanes, Committed(0, ""))
        self._kafka.begin()
        self._kafka.send_offsets({}, start, group_metadata)
        self._kafka.commit()
        for lane, published in start.items():
            committed[lane] = published


def _arrivals(read: Iterable[_Read]) -> list[Arrival]:
    """Return the events for the inbox: not those of records that are set aside."""
    return [
        Arrival(
            one.record.input,
            one.record.offset,
            one.opened.envelope.source,
            one.opened.envelope.id,
            one.record.key or b"",
        )
        for one in read
        if one.opened is not None and one.rejected is None
    ]


def _key(record: Record) -> tuple[Input, bytes]:
    """Return what is held while a record is parked."""
    return record.input, record.key or b""


def _in_its_place(dead_letter: NewDeadLetter, *, first: bool) -> NewParked:
    """Return what holds the key of `dead_letter` until somebody decides about it."""
    record = dead_letter.record._replace(value=None)
    return NewParked(record, dead_letter.epoch, "", "", dead_letter.error, first, aside=True)


def _opened(read: Iterable[tuple[_Read, int]]) -> list[Delivery | NewDeadLetter]:
    """Return what is for the handlers, and what is set aside without calling one. Raises `HandlingFailed`."""
    found: list[Delivery | NewDeadLetter] = []
    for (record, opened, rejected, failed), epoch in read:
        if failed is not None:
            raise HandlingFailed(record, unread=True) from failed
        if rejected is not None:
            found.append(NewDeadLetter(record, epoch, opened.envelope if opened else None, rejected))
        elif opened is not None:
            found.append(Delivery(record, opened.envelope, opened.event, epoch))
    return found
