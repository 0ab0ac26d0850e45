"""A world of dictionaries behind the two ports, for tests of the cycle's logic.

It is no evidence for the guarantee: it does what its author believes that Kafka and Postgres do. What they really do is
asked in tests/faults and tests/integration.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from shared.errors import (
    ContentRefused,
    GenerationLost,
    HandlingFailed,
    Malformed,
    Reject,
    Retry,
    Unavailable,
    Undecided,
)
from shared.events import Envelope, Event
from shared.protocol.cycle import Cycle, Limits, Progress
from shared.protocol.ports import (
    Assignment,
    Claim,
    Committed,
    Delivery,
    Input,
    NewDeadLetter,
    Opened,
    OutboxRow,
    Polled,
    Position,
    Record,
)

A, B = Input("a", 0), Input("b", 0)
"""Two inputs; b is handled after a."""


class Word(Event, frozen=True, kw_only=True):
    """An event that is one word; its key is the word's first letter."""

    word: str

    @property
    def key(self) -> str:
        """The first letter."""
        return self.word[0]


@dataclass
class Tables:
    """What is committed in Postgres, or will be with the transaction at work."""

    positions: dict[Input, Position] = field(default_factory=dict)
    inbox: set[tuple[str, str]] = field(default_factory=set)
    handled: list[str] = field(default_factory=list)
    dead_letters: list[NewDeadLetter] = field(default_factory=list)
    outbox: dict[int, tuple[int, OutboxRow]] = field(default_factory=dict)
    """Row id to lane and row."""
    claims: dict[int, tuple[int, str, list[int]]] = field(default_factory=dict)
    numbers: int = 0
    """Row ids and claim ids that were given."""


Failure = tuple[Exception, bool]


class World:
    """Both systems, and one worker's view of them."""

    def __init__(self, lanes: int = 1) -> None:
        self.tables = Tables(claims={lane: (0, "", []) for lane in range(lanes)})
        self.records: dict[Input, list[Record | None]] = {A: [], B: []}
        """None is a control marker."""
        self.first: dict[Input, int] = {A: 0, B: 0}
        self.offsets: dict[Input | int, Committed] = {}
        self.published: list[str] = []
        self.fetched = 0
        self.calls: list[str] = []
        self.attempts: list[list[int]] = []
        """Offsets that were noted before they were handled."""
        self.generation = 0
        self.member = True
        self.lane = 0
        self.handle: Callable[[str], Iterable[str]] = lambda word: (word,)
        """What is published about a word; raises what a handler raises."""
        self.refuse: Callable[[str], bool] = lambda word: False
        """Whether Postgres refuses to take it: too large."""
        self.content: Callable[[str], bool] = lambda word: False
        """Whether Kafka refuses it for its content."""
        self._failures: dict[str, list[Failure]] = {}
        self._assignments: list[Assignment] = []

    def feed(self, source: Input, *words: str) -> None:
        """Append records; `word@id` gives the event's id, which is otherwise the word."""
        for text in words:
            word, _, event_id = text.partition("@")
            offset = self.first[source] + len(self.records[source])
            headers = [("id", (event_id or word).encode())]
            self.records[source].append(Record(source, offset, word[:1].encode(), word.encode(), headers))

    def mark(self, source: Input) -> None:
        """Append a control marker, as every transaction of a producer does."""
        self.records[source].append(None)

    def end(self, source: Input) -> int:
        """The offset after the last record or marker."""
        return self.first[source] + len(self.records[source])

    def assign(self, *sources: Input, lanes: Collection[int] = (0,)) -> None:
        """Let the next poll find this assignment, of a new generation."""
        self._assignments.append(Assignment(frozenset(sources), frozenset(lanes)))

    def take_assignment(self) -> Assignment | None:
        """What the poll under way finds."""
        if not self._assignments:
            return None
        self.generation += 1
        return self._assignments.pop(0)

    def fail(self, call: str, error: Exception, *, after: bool = False, times: int = 1) -> None:
        """Let the next calls of this name fail, before or after they take effect."""
        self._failures.setdefault(call, []).extend([(error, after)] * times)

    def call(self, name: str, act: Callable[[], Any] = lambda: None) -> Any:
        """Do what a call does, unless it was decided otherwise."""
        self.calls.append(name)
        failures = self._failures.get(name)
        error, after = failures.pop(0) if failures else (None, False)
        if error is not None and not after:
            raise error
        result = act()
        if error is not None:
            raise error
        return result

    def put(self, word: str, *, lane: int = 0) -> None:
        """Commit a row to the outbox, as a request does."""
        insert(self.tables, lane, word)

    def waiting(self) -> list[str]:
        """The words in the outbox."""
        return [row.data.decode() for _, row in self.tables.outbox.values()]

    def at(self, source: Input) -> int:
        """The next offset."""
        return self.tables.positions[source].next_offset

    def move(self, source: Input, offset: int) -> None:
        """Let another worker set the next offset."""
        self.tables.positions[source] = Position(offset, 0)

    def worker(self, *, records: int = 100, rows: int = 100, retries: int = 0) -> "Worker":
        """A worker that knows nothing yet."""
        return Worker(self, Limits(records, rows, retries))


def insert(tables: Tables, lane: int, word: str) -> None:
    """Insert a row into the outbox."""
    tables.numbers += 1
    row = OutboxRow("published", word[0], f"id of {word}", "Word", 1, "", word.encode(), None)
    tables.outbox[tables.numbers] = (lane, row)


class Worker:
    """A cycle, and somebody who calls it as `shared.worker.main_loop` does."""

    def __init__(self, world: World, limits: Limits) -> None:
        self.world = world
        self.cycle = Cycle("words", FakeKafka(world), FakeDatabase(world), open_record, limits)
        self.recover = self.cycle.recover

    def run(self, *, report: bool = False) -> Progress:
        """One cycle."""
        return self.cycle.run(0, report=report)

    def settle(self, *, report: bool = False) -> list[Progress]:
        """Run cycles until there is nothing to do; return what they did."""
        done: list[Progress] = []
        for _ in range(200):
            done.append(self.run(report=report))
            if done[-1].idle:
                return done
        raise AssertionError("the cycle does not come to rest")

    def started(self) -> "Worker":
        """Recover, adopt, and come to rest."""
        self.recover()
        self.settle()
        return self


def open_record(record: Record) -> Opened | None:
    """Read a record; some words mean something."""
    assert record.value is not None
    assert record.headers
    word = record.value.decode()
    if word == "malformed":
        raise Malformed
    if word == "future":
        raise Retry
    if word == "unconsumed":
        return None
    event_id = (record.headers[0][1] or b"").decode()
    return Opened(Envelope(event_id, "test", "Word", 1, "", word[0], record.value), Word(word=word))


class FakeKafka:
    """Implements `shared.protocol.ports.Kafka`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reading: dict[Input, int] = {}
        self._paused: set[Input] = set()
        self._ended: set[tuple[Input, int]] = set()
        self._rows: list[OutboxRow] = []
        self._pending: dict[Input | int, Committed] = {}

    def poll(self, records: int, seconds: float) -> Polled:
        def act() -> Polled:
            world = self._world
            assigned = world.take_assignment()
            if assigned is not None:
                self._reading = {}
            found: list[Record] = []
            ends: dict[Input, int] = {}
            for source in sorted(self._reading.keys() - self._paused):
                while len(found) < records and self._reading[source] < world.end(source):
                    record = world.records[source][self._reading[source] - world.first[source]]
                    self._reading[source] += 1
                    if record is not None:
                        found.append(record)
                        world.fetched += 1
                end = self._reading[source]
                if end == world.end(source) and (source, end) not in self._ended:
                    self._ended.add((source, end))
                    ends[source] = end
            return Polled(found, ends, assigned, world.generation if world.member else None)

        result: Polled = self._world.call("kafka.poll", act)
        return result

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
        offsets = self._world.offsets
        found: dict[Input | int, Committed] = self._world.call(
            "kafka.committed", lambda: {key: offsets[key] for key in (*inputs, *lanes) if key in offsets}
        )
        return found

    def beginning(self, source: Input) -> int:
        return self._world.first[source]

    def read_from(self, positions: Mapping[Input, int], lanes: Collection[int]) -> None:
        def act() -> None:
            self._reading = dict(positions)
            self._paused, self._ended = set(), set()

        self._world.call("kafka.read_from", act)

    def pause(self, inputs: Collection[Input]) -> None:
        self._paused |= set(inputs)

    def resume(self, inputs: Collection[Input]) -> None:
        self._paused -= set(inputs)

    def renew(self) -> None:
        self._world.call("kafka.renew", self._drop)

    def begin(self) -> None:
        self._world.call("kafka.begin", self._drop)

    def _drop(self) -> None:
        self._rows, self._pending = [], {}

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        self._world.call("kafka.produce", lambda: self._rows.extend(rows))

    def flush(self) -> None:
        def act() -> None:
            if any(self._world.content(row.data.decode()) for row in self._rows):
                raise ContentRefused

        self._world.call("kafka.flush", act)

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:
        def act() -> None:
            if group_metadata != self._world.generation:
                raise GenerationLost
            for lane, published in lanes.items():
                self._pending[lane] = published
            for source, offset in inputs.items():
                self._pending[source] = Committed(offset, "")

        self._world.call("kafka.send_offsets", act)

    def commit(self) -> None:
        def act() -> None:
            self._world.published += [row.data.decode() for row in self._rows]
            self._world.offsets |= self._pending
            self._drop()

        self._world.call("kafka.commit", act)

    def confirm(self) -> None:
        self._world.call("kafka.confirm", lambda: None)


class FakeDatabase:
    """Implements `shared.protocol.ports.Database`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def hold_slot(self) -> None:
        self._world.call("database.hold_slot")

    def begin(self) -> "FakeTransaction":
        made: FakeTransaction = self._world.call("database.begin", lambda: FakeTransaction(self._world))
        return made

    def positions(self, inputs: Collection[Input]) -> dict[Input, Position]:
        rows = self._world.tables.positions
        found: dict[Input, Position] = self._world.call(
            "database.positions", lambda: {source: rows[source] for source in inputs if source in rows}
        )
        return found

    def start_positions(self, beginnings: Mapping[Input, int]) -> None:
        for source, offset in beginnings.items():
            self._world.tables.positions.setdefault(source, Position(offset, 0))

    def claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        found: dict[int, Claim] = self._world.call("database.claims", lambda: _claims(self._world.tables, lanes))
        return found

    def attempt(self, records: Sequence[Record]) -> None:
        self._world.attempts.append([record.offset for record in records])

    def unpublished(self, lanes: Collection[int]) -> bool:
        return any(lane in lanes for lane, _ in self._world.tables.outbox.values())


def _claims(tables: Tables, lanes: Collection[int]) -> dict[int, Claim]:
    return {
        lane: Claim(position, claim_id, len(ids))
        for lane, (position, claim_id, ids) in tables.claims.items()
        if lane in lanes
    }


class FakeTransaction:
    """Implements `shared.protocol.ports.Transaction`: works on a copy of the tables, which the commit puts in their
    place.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables = replace(
            world.tables, **{name: copy(value) for name, value in vars(world.tables).items() if name != "numbers"}
        )
        self._collected: list[str] = []

    def lock_positions(self, inputs: Collection[Input]) -> dict[Input, Position]:
        return {source: self._tables.positions[source] for source in inputs if source in self._tables.positions}

    def receive(self, ids: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        new = set(ids) - self._tables.inbox
        self._tables.inbox |= new
        return new

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        def act() -> None:
            for delivery in deliveries:
                assert isinstance(delivery.event, Word)
                try:
                    self._collected += self._world.handle(delivery.event.word)
                except Undecided as error:
                    raise HandlingFailed(delivery.record) from error
                except Unavailable:
                    raise
                except Exception as error:
                    raise HandlingFailed(delivery.record) from error
                self._tables.handled.append(delivery.event.word)

        self._world.call("transaction.handle", act)

    def set_aside(self, dead_letters: Sequence[NewDeadLetter]) -> None:
        self._tables.dead_letters += dead_letters

    def write_outbox(self) -> None:
        for word in self._collected:
            if self._world.refuse(word):
                raise HandlingFailed(None) from Reject(f"{word} is too large")
            insert(self._tables, self._world.lane, word)

    def advance(self, positions: Mapping[Input, int]) -> None:
        for source, offset in positions.items():
            old = self._tables.positions[source]
            self._tables.positions[source] = old._replace(next_offset=max(old.next_offset, offset))

    def lock_claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        found: dict[int, Claim] = self._world.call("transaction.lock_claims", lambda: _claims(self._tables, lanes))
        return found

    def forget(self, lanes: Collection[int]) -> None:
        for lane in lanes:
            position, claim_id, ids = self._tables.claims[lane]
            for row_id in ids:
                del self._tables.outbox[row_id]
            self._tables.claims[lane] = (position, claim_id, [])

    def claim(self, limits: Mapping[int, int]) -> dict[int, Claim]:
        def act() -> dict[int, Claim]:
            claimed = [lane for lane, limit in limits.items() if self._name(lane, self._waiting(lane)[:limit], 1)]
            return _claims(self._tables, claimed)

        found: dict[int, Claim] = self._world.call("transaction.claim", act)
        return found

    def claim_less(self, limits: Mapping[int, int]) -> dict[int, Claim]:
        for lane, limit in limits.items():
            self._name(lane, self._tables.claims[lane][2][:limit], 0)
        return _claims(self._tables, limits)

    def _waiting(self, lane: int) -> list[int]:
        return sorted(row_id for row_id, (of, _) in self._tables.outbox.items() if of == lane)

    def _name(self, lane: int, ids: list[int], step: int) -> bool:
        if ids:
            self._tables.numbers += 1
            self._tables.claims[lane] = (self._tables.claims[lane][0] + step, f"claim {self._tables.numbers}", ids)
        return bool(ids)

    def claimed(self, lanes: Collection[int]) -> list[OutboxRow]:
        return [self._tables.outbox[row_id][1] for lane in sorted(lanes) for row_id in self._tables.claims[lane][2]]

    def commit(self) -> None:
        def act() -> None:
            self._world.tables = self._tables

        self._world.call("transaction.commit", act)

    def rollback(self) -> None:
        self._world.call("transaction.rollback")


def count(calls: Iterable[str], name: str) -> int:
    """How often a call was made."""
    return Counter(calls)[name]
