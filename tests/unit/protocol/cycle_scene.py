"""One worker's cycle on the simulated world, where nothing goes wrong but what a test asks for: for the readable
specification of the cycle. tests/contract asks the same of the real servers.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NoReturn

from shared.errors import ContentRefused, ContentStuck, Malformed, Retry
from shared.events import Envelope, Event
from shared.protocol.cycle import Cycle, Limits, Progress
from shared.protocol.parking import Bounds
from shared.protocol.ports import (
    NOTHING,
    Assignment,
    Committed,
    Delivery,
    Input,
    NewDeadLetter,
    Opened,
    OutboxRow,
    Polled,
    Record,
)
from tests.simulation.broker import TOPIC, Broker, State
from tests.simulation.client import Client
from tests.simulation.faults import Fault
from tests.simulation.postgres import Connection, Postgres, row_of

A, B = Input(TOPIC, 0), Input(TOPIC, 1)
"""Two inputs; B is handled after A. Words that begin with a or y are published in lane 0, with b or z in lane 1."""

SLOTS = 2


class Word(Event, frozen=True, kw_only=True):
    """An event that is one word; its key is the word's first letter."""

    word: str

    @property
    def key(self) -> str:
        """The first letter."""
        return self.word[0]


class World:
    """Both systems, with the faults that a test asks for."""

    def __init__(self) -> None:
        self.broker = Broker(2, 1, lambda rule: None, lambda: None)
        self.broker.assignor = lambda slots, _: {slot: self._shares.get(slot, NOTHING) for slot in slots}
        self.broker.refuses = lambda row: self.content(row.event_id)
        self.server = Postgres(2, SLOTS, lambda rule: None, lambda: None)
        self.server.handler = self._rows
        self.server.too_large = lambda row: self.refuse(row.event_id)
        self.calls: list[str] = []
        self.attempts: list[list[int]] = []
        """Offsets noted before they were handled."""
        self.fetched = 0
        self.member = True
        """Whether the worker has a member id."""
        self.handle: Callable[[str], Iterable[str]] = lambda word: (word,)
        """Returns what is published about a word, or raises as a handler."""
        self.refuse: Callable[[str], bool] = lambda word: False
        """Whether Postgres refuses a word as too large."""
        self.content: Callable[[str], bool] = lambda word: False
        """Whether Kafka refuses a word for its content."""
        self.holds: Callable[[str], bool] = lambda word: False
        """Whether later words of its key wait if a word is set aside."""
        self._shares: dict[int, Assignment] = {}
        self._faults: dict[str, list[Fault]] = {}
        self._acts: dict[str, list[Callable[[], object]]] = {}
        self._workers: dict[int, Worker] = {}

    def _rows(self, delivery: Delivery) -> Sequence[OutboxRow]:
        assert isinstance(delivery.event, Word)
        return [row_of(word[0], word) for word in self.handle(delivery.event.word)]

    def holding(self, record: Record) -> bool:
        """Ask `holds` about a record."""
        return self.holds((record.value or b"").decode())

    # ---- what happens

    def produce(self, source: Input, *words: str) -> None:
        """Append records; `word@id` gives the event's id, which is otherwise the word."""
        for text in words:
            word, _, event_id = text.partition("@")
            self.broker.inputs[source].append((word, event_id or word))

    def mark(self, source: Input) -> None:
        """Append a control marker, as every transaction of a producer does."""
        self.broker.inputs[source].mark(-1, State.COMMITTED)

    def trim(self, source: Input, offset: int) -> None:
        """Begin the log after records that retention removed."""
        self.produce(source, *["old"] * offset)
        self.broker.inputs[source].first = offset

    def put(self, word: str) -> None:
        """Commit a row to the outbox, as a request does."""
        self.server.outbox[self.server.next_id()] = row_of(word[0], word)

    def assign(self, *sources: Input, lanes: Collection[int] = (0, 1), slot: int = 0) -> None:
        """Let the worker in `slot` own these in a new generation, and the others nothing."""
        self._shares = {slot: Assignment(frozenset(sources), frozenset(lanes))}
        self.broker.rebalance()

    def meet(self, fault: Fault, call: str, times: int = 1) -> None:
        """Let the next calls of this name meet a fault."""
        self._faults.setdefault(call, []).extend([fault] * times)

    def when(self, call: str, act: Callable[[], object], times: int = 1) -> None:
        """Let something happen at the next calls of this name."""
        self._acts.setdefault(call, []).extend([act] * times)

    def at(self, slot: int, call: str) -> Fault:
        """Reach a call; return its fault."""
        self.calls.append(call)
        if acts := self._acts.get(call):
            acts.pop(0)()
        faults = self._faults.get(call)
        fault = faults.pop(0) if faults else Fault.NONE
        if fault is Fault.EXPEL:
            self.broker.expel(slot, self.broker.members.get(slot))
        return fault

    # ---- results

    @property
    def effects(self) -> list[str]:
        """The words that took effect, by the ids of their events."""
        return self.server.effects

    @property
    def dead_letters(self) -> list[NewDeadLetter]:
        """The records set aside."""
        return self.server.dead_letters

    @property
    def published(self) -> list[str]:
        """The words that readers see, lane by lane, without the notices about dead letters."""
        rows = [row.event_id for log in self.broker.published.values() for row in log.readable()]
        return [word for word in rows if not word.startswith("set aside")]

    @property
    def offsets(self) -> dict[Input | int, Committed]:
        """The committed offsets."""
        return self.broker.offsets

    def waiting(self) -> list[str]:
        """Return the words in the outbox."""
        return [row.event_id for _, row in sorted(self.server.outbox.items())]

    def position(self, source: Input) -> int:
        """Return the next offset."""
        return self.server.positions[source]

    def worker(
        self,
        *,
        slot: int = 0,
        records: int = 100,
        rows: int = 100,
        retries: int = 0,
        eager: bool = True,
        parked: Bounds | None = None,
    ) -> "Worker":
        """Return a worker that knows nothing yet; the slot's former one is gone."""
        if (gone := self._workers.pop(slot, None)) is not None:
            gone.connection.lose()
        self._workers[slot] = worker = Worker(self, slot, Limits(records, rows, retries, parked))
        worker.client.eager = eager
        return worker


class Worker:
    """A cycle, called as `shared.worker.main_loop` does."""

    def __init__(self, world: World, slot: int, limits: Limits) -> None:
        def at(call: str, *_offered: Fault) -> Fault:
            return world.at(slot, call)

        self.client = WatchedClient(world, slot, at)
        self.connection = WatchedConnection(world, at)
        self.cycle = Cycle("words", self.client, self.connection, open_record, limits, holds=world.holding)
        self.recover = self.cycle.recover

    def run(self, *, report: bool = False) -> Progress:
        """Run one cycle."""
        return self.cycle.run(0, report=report)

    def retry(self, *, count: bool = True) -> Progress:
        """Try what is parked and due."""
        return self.cycle.retry(count=count)

    def drain(self) -> list[Progress]:
        """Run, and try what is parked, until there is nothing to do and nothing is parked."""
        done: list[Progress] = []
        for _ in range(200):
            done += [self.run(), self.retry()]
            if not self.cycle.waiting and done[-1].idle and done[-2].idle:
                return done
        raise AssertionError("records stay parked")

    def settle(self, *, report: bool = False) -> list[Progress]:
        """Run cycles until there is nothing to do; return what they did."""
        done: list[Progress] = []
        for _ in range(200):
            done.append(self.run(report=report))
            if done[-1].idle:
                return done
        raise AssertionError("the cycle does not come to rest")

    def stuck(self) -> ContentStuck:
        """Run and recover until the row that Kafka refuses is found; return what names it."""
        for _ in range(10):
            try:
                self.settle()
            except ContentStuck as stuck:
                return stuck
            except ContentRefused:
                self.recover()
        raise AssertionError("the row was not found")

    def started(self) -> "Worker":
        """Recover, adopt, and come to rest."""
        self.recover()
        self.settle()
        return self


class WatchedClient(Client):
    """Counts what is fetched, and may have no member id."""

    key = staticmethod(lambda word: word[0])

    def __init__(self, world: World, slot: int, at: Callable[..., Fault]) -> None:
        super().__init__(world.broker, slot, at)
        self._world = world

    def poll(self, records: int, seconds: float) -> Polled:
        polled = super().poll(records, seconds)
        self._world.fetched += len(polled.records)
        return polled if self._world.member else polled._replace(group_metadata=None)


class WatchedConnection(Connection):
    """Remembers what was noted."""

    def __init__(self, world: World, at: Callable[..., Fault]) -> None:
        def die() -> NoReturn:
            raise AssertionError("no word here ends a process")

        super().__init__(world.server, at, self._wait, lambda act: None, lambda rule: None, die=die)
        self._world = world
        assert self.take_slot() is not None

    def _wait(self, rounds: int) -> None:
        raise AssertionError("a worker waits for a lock that another one has")

    def attempt(self, records: Sequence[Record]) -> None:
        self._world.attempts.append([record.offset for record in records])
        super().attempt(records)


def open_record(record: Record) -> Opened | None:
    """Read a record; some words have a meaning."""
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


def count(calls: Iterable[str], name: str) -> int:
    """Return how often a call was made."""
    return Counter(calls)[name]
