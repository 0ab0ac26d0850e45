"""The world of the simulation, in which nothing goes wrong."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from shared.errors import Reject
from shared.events import Envelope, Event
from shared.protocol.ports import Delivery, Input, Kafka, OutboxRow, Record
from tests.contract.world import Place, Slotted, World
from tests.simulation.broker import Broker, Entry, State
from tests.simulation.client import Client
from tests.simulation.faults import Fault
from tests.simulation.postgres import Changes, Connection, Postgres, Session, row_of, tell

SLOTS = 16
"""More than any test takes."""

OTHER_PID = 7
"""The producer id of another producer."""


def nothing_happens(*_call: object) -> Fault:
    """Meet no fault."""
    return Fault.NONE


class SimulatedWorld(World):
    """One service."""

    keys = ("a", "b")

    def __init__(self) -> None:
        self.broker = Broker(2, 1, lambda rule: None, lambda: None)
        self.server = Postgres(2, SLOTS, lambda rule: None, lambda: None)
        self.server.handler = _handle
        first, second = self.broker.inputs
        self.inputs = (first, second)
        self._requests = 0
        self._release: Callable[[], object] | None = None

    # ---- the ports

    def kafka(self, slot: int = 0) -> Kafka:
        return Client(self.broker, slot, nothing_happens)

    def leave(self, kafka: Kafka) -> None:
        """The client stays a member until its session ends."""

    def database(self) -> Slotted:
        def die() -> NoReturn:
            raise AssertionError("nothing here ends a process")

        connection = Connection(self.server, nothing_happens, self._wait, lambda act: None, lambda rule: None, die=die)
        assert connection.take_slot() is not None
        return connection

    def end_session(self, database: Slotted) -> None:
        session = cast("Connection", database).session
        assert session is not None
        self.server.end(session)

    def make_impatient(self, database: Slotted) -> None:
        """Do nothing: a lock times out after some rounds."""

    def while_it_waits(self, blocked: Callable[[], Any], release: Callable[[], object]) -> Any:
        self._release = release
        found = blocked()
        assert self._release is None, "it did not wait"
        return found

    def _wait(self, rounds: int) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    # ---- what happens outside

    def produce(self, source: Input, *numbers: int) -> None:
        for number in numbers:
            self.broker.inputs[source].append((str(number), str(number)))

    @contextmanager
    def transaction(self, source: Input, *numbers: int) -> Iterator[Callable[[], None]]:
        log = self.broker.inputs[source]
        log.entries += [Entry((str(number), str(number)), OTHER_PID, State.OPEN) for number in numbers]
        outcome = State.COMMITTED

        def abort() -> None:
            nonlocal outcome
            outcome = State.ABORTED

        yield abort
        log.mark(OTHER_PID, outcome)

    @contextmanager
    def open_elsewhere(self) -> Iterator[None]:
        log = self.broker.published[1]
        log.entries.append(Entry(row_of("b", "of somebody else"), OTHER_PID, State.OPEN))
        yield
        log.mark(OTHER_PID, State.ABORTED)

    def trim(self, source: Input, offset: int) -> None:
        self.broker.inputs[source].first = offset

    def limit_size(self) -> None:
        self.broker.refuses = lambda row: bool(row.data)

    @contextmanager
    def request(self, lane: int) -> Iterator[str]:
        self._requests += 1
        session, event_id = Session(), f"request {self._requests}"
        session.changes = Changes(outbox={self.server.next_id(): row_of(self.keys[lane], event_id)})
        yield event_id
        self.server.commit(session)

    # ---- what handlers get and publish

    def delivery(self, number: int, lane: int = 0, *, rejected: bool = False) -> Delivery:
        word = ("rejected" if rejected else "welcome").encode()
        record = Record(self.inputs[lane], number, self.keys[lane].encode(), word, [("id", str(number).encode())])
        return Delivery(record, Envelope(str(number), "test", "Word", 1, "", self.keys[lane], word), Event(), 0)

    def row(self, name: str, lane: int = 0, *, large: bool = False) -> OutboxRow:
        return row_of(self.keys[lane], name)._replace(data=b"large" if large else b"")

    # ---- what is seen from outside

    def published(self) -> list[str]:
        return [row.event_id for log in self.broker.published.values() for row in log.readable()]

    def effects(self) -> list[int]:
        return [int(event_id) for event_id in self.server.effects]

    def dead_letters(self) -> list[Place]:
        return [Place(*dead_letter.record[:2]) for dead_letter in self.server.dead_letters]

    def outbox(self) -> list[str]:
        return [row.event_id for _, row in sorted(self.server.outbox.items())]


def _handle(delivery: Delivery) -> Sequence[OutboxRow]:
    if delivery.record.value == b"rejected":
        raise Reject
    return tell(delivery)
