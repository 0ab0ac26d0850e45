"""What the contract asks of a world, simulated or real: one service with two partitions of everything, its workers' two
ports, and what is seen from outside.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, Protocol

from shared.errors import KafkaUnavailable
from shared.protocol.attempts import Attempt
from shared.protocol.ports import NOTHING, Assignment, Committed, Database, Delivery, Input, Kafka, OutboxRow, Polled
from shared.testing import until


class Slotted(Database, Protocol):
    """The database port, and what else a worker asks of it."""

    def take_slot(self) -> object: ...

    def attempts(self) -> Mapping[Input, Attempt]: ...


class Place(NamedTuple):
    """A record that a partition holds."""

    input: Input
    offset: int


class World(ABC):
    """One service. Events are numbers."""

    inputs: tuple[Input, Input]
    keys: tuple[str, str]
    """The keys of two aggregates: in lane 0 and in lane 1."""

    # ---- the ports

    @abstractmethod
    def kafka(self, slot: int = 0) -> Kafka:
        """Make the client of a slot; it is no member yet, and has no producer."""

    @abstractmethod
    def leave(self, kafka: Kafka) -> None:
        """End a client that does not leave: it is still a member."""

    @abstractmethod
    def database(self) -> Slotted:
        """Connect, and take the lowest free slot."""

    @abstractmethod
    def end_session(self, database: Slotted) -> None:
        """End a session at the server, unannounced."""

    @abstractmethod
    def make_impatient(self, database: Slotted) -> None:
        """From now on, let a session wait only briefly for locks."""

    @abstractmethod
    def while_it_waits(self, blocked: Callable[[], Any], release: Callable[[], object]) -> Any:
        """Call `blocked`, and `release` when that waits for a lock; return the result of `blocked`."""

    # ---- what happens outside

    @abstractmethod
    def produce(self, source: Input, *numbers: int) -> None:
        """Publish events to an input, without transactions."""

    @abstractmethod
    def transaction(self, source: Input, *numbers: int) -> AbstractContextManager[Callable[[], None]]:
        """Publish events to an input in a transaction. The block's end commits it; the yielded function aborts it."""

    @abstractmethod
    def open_elsewhere(self) -> AbstractContextManager[None]:
        """Keep a transaction of another producer open on the service's own topic."""

    @abstractmethod
    def trim(self, source: Input, offset: int) -> None:
        """Let retention remove what lies before an offset."""

    @abstractmethod
    def limit_size(self) -> None:
        """From now on, let the service's topic refuse large rows."""

    @abstractmethod
    def request(self, lane: int) -> AbstractContextManager[str]:
        """Publish an event as a request does, which commits when the block ends; return the event's id."""

    def request_at_once(self, lane: int) -> str:
        """Publish an event as a request does; return its id."""
        with self.request(lane) as event_id:
            pass
        return event_id

    # ---- what handlers get and publish

    @abstractmethod
    def delivery(self, number: int, lane: int = 0, *, rejected: bool = False) -> Delivery:
        """Return an event about a lane's aggregate, for a handler that rejects it or publishes one about it."""

    @abstractmethod
    def row(self, name: str, lane: int = 0, *, large: bool = False) -> OutboxRow:
        """Make a row."""

    # ---- what is seen from outside

    @abstractmethod
    def published(self) -> list[str]:
        """Return the ids that a read_committed reader of the service's topic finds, lane by lane."""

    @abstractmethod
    def effects(self) -> list[int]:
        """The numbers of the events that took effect."""

    @abstractmethod
    def dead_letters(self) -> list[Place]:
        """Records set aside."""

    @abstractmethod
    def outbox(self) -> list[str]:
        """The ids of the rows in the outbox, in the order of their row ids."""


def joined(kafka: Kafka) -> Polled:
    """Poll until the client has a share that is not empty; return the poll that found it."""
    found: list[Polled] = []

    def has_share() -> bool:
        found.append(kafka.poll(1, 0.05))
        return found[-1].assigned not in (None, NOTHING)

    until(has_share, "it owns something")
    return found[-1]


def known(kafka: Kafka, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
    """Ask for committed offsets until there is an answer: a new client may have to find the coordinator."""
    found: list[dict[Input | int, Committed]] = []

    def answered() -> bool:
        with suppress(KafkaUnavailable):
            found.append(kafka.committed(inputs, lanes))
        return bool(found)

    until(answered, "the committed offsets are given")
    return found[0]


def readable(world: World, event_ids: list[str]) -> None:
    """Check what a reader finds after a commit. The broker answers before it has marked the partitions (KIP-98)."""
    until(lambda: world.published() == event_ids, f"{event_ids} can be read")


def settled(*clients: Kafka) -> list[Polled]:
    """Poll until all clients have shares that do not overlap; return the last poll of each. The last one is new to the
    group, so each learns its share now: a client joins by itself, even before a poll.
    """
    shares: dict[int, Assignment] = dict.fromkeys(range(len(clients)), NOTHING)
    last: dict[int, Polled] = {}

    def shared() -> bool:
        for n, kafka in enumerate(clients):
            last[n] = kafka.poll(1, 0.02)
            if (assigned := last[n].assigned) is not None:
                shares[n] = assigned
        lanes = [lane for share in shares.values() for lane in share.lanes]
        return sorted(lanes) == [0, 1] and all(share.lanes for share in shares.values())

    until(shared, "the clients share everything")
    return [last[n]._replace(assigned=shares[n]) for n in range(len(clients))]


def fetched(kafka: Kafka, records: int, most: int = 100) -> tuple[list[Place], dict[Input, int]]:
    """Poll until that many records have come; return their places, and the ends reported by then."""
    found: list[Place] = []
    ends: dict[Input, int] = {}

    def enough() -> bool:
        polled = kafka.poll(most, 0.05)
        assert len(polled.records) <= most
        found.extend(Place(*record[:2]) for record in polled.records)
        ends.update(polled.ends)
        return len(found) >= records

    until(enough, f"{records} records have come")
    return found, ends


def until_ended(kafka: Kafka, ends: dict[Input, int]) -> None:
    """Poll until an end is reported."""

    def told() -> bool:
        polled = kafka.poll(10, 0.0 if ends else 0.05)
        assert not polled.records
        ends.update(polled.ends)
        return bool(ends)

    until(told, "an end is told")


def quiet(kafka: Kafka) -> Iterator[Polled]:
    """Poll for a while."""
    for _ in range(10):
        yield kafka.poll(100, 0.02)


def publish(kafka: Kafka, rows: Sequence[OutboxRow]) -> None:
    """Commit rows in a transaction of their own."""
    kafka.begin()
    kafka.produce(rows)
    kafka.commit()
