"""The simulated world: processes that run the production cycle, a scheduler, and what happens outside.

Time is counted in rounds. In each round, every process that is neither dead nor stalled runs one cycle, one process
after the other; each has a thread of its own, and a baton says whose turn it is, so that nothing ever runs at the same
time. Every call of a port is a choice point: `Plan` says which fault happens there, and everything else follows.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn
from unittest.mock import patch

from shared.errors import Exit, Malformed, RecoveryNeeded, Stop, Unavailable
from shared.events import Envelope, Event
from shared.protocol import attempts
from shared.protocol.cycle import Cycle, Limits
from shared.protocol.parking import Bounds
from shared.protocol.ports import Input, Opened, Record
from tests.simulation.broker import Broker
from tests.simulation.client import LATE_ROUNDS, Client, lane_of
from tests.simulation.ends import Place
from tests.simulation.faults import ALWAYS, STALLS, Died, Fault, Violated
from tests.simulation.invariants import at_any_time, at_rest
from tests.simulation.postgres import IDLE_ROUNDS, Changes, Connection, Postgres, Session, holds, row_of

RESTART_ROUNDS = {Fault.DIE: 1, Fault.DIE_LATE: 1, Fault.DIE_LONG: 11, Fault.FORGET_OFFSETS: 1}
"""The rounds until a supervisor restarts: one, or beyond the session timeout."""

START_ROUNDS = 4
"""The rounds between starts of processes: the one before already owns everything, and works."""

REST_ROUNDS = 100
"""The rounds from the last fault and the script's end until all must rest: several times the longest timeout."""

FATAL = "#%"
"""The first letters of words that end the process that handles them, or the session at its COMMIT."""

MARKS = f"-?~^*{FATAL}"
"""The first letters that are no key."""

FATAL_ROUNDS = 30
"""The rounds that a fatal word may add."""

PERSON_ROUNDS = 12
"""Rounds that a person takes to decide: longer than a process is frozen, which then finds nothing decided."""

PARTS = 3
"""Parts in which the records of a dead process are tried: fewer, since a batch is smaller here too."""

REPORT_EVERY = 3
"""Rounds between two reports of next offsets."""


class Arrive(NamedTuple):
    """Another service publishes a word; one that begins with "-" is in an aborted transaction."""

    word: str
    event_id: str


class Open(NamedTuple):
    """A request begins: it locks its aggregate and inserts its row. The last letter of its name is the key."""

    name: str


class Close(NamedTuple):
    """The request commits."""

    name: str


class Redrive(NamedTuple):
    """A person redrives the dead letter that holds a key, with code that can handle it."""

    key: str


class Dismiss(NamedTuple):
    """A person gives up the dead letter that holds a key."""

    key: str


class Pause(NamedTuple):
    """An operator pauses a topic; each process hears of it when it looks next."""

    topic: str


class Resume(NamedTuple):
    """An operator resumes a topic."""

    topic: str


Step = Arrive | Open | Close | Redrive | Dismiss | Pause | Resume


class Scenario(NamedTuple):
    """What happens outside, one step a round, and who works."""

    script: Sequence[Step]
    processes: int = 1
    slots: int = 1
    version: int = 1
    """The version of EndTxn."""
    records: int = 2
    """Records in a batch."""
    parked: int = 9
    """Records of one input that may be parked."""


class Word(Event, frozen=True, kw_only=True):
    """An event."""

    word: str

    @property
    def key(self) -> str:
        """The last letter: `ab` comes with the records of a, and is about b."""
        return self.word[-1]


class Parts(NamedTuple):
    """The parts of a simulation; a mutant replaces one."""

    cycle: type[Cycle] = Cycle
    client: type[Client] = Client
    connection: type[Connection] = Connection
    broker: type[Broker] = Broker
    server: type[Postgres] = Postgres


Choose = Callable[[int, Sequence[Fault]], Fault]
"""Returns the fault at a choice point, one of those offered there."""


@dataclass
class Point:
    """One choice point of a run."""

    round: int
    process: int
    call: str
    offered: tuple[Fault, ...]
    fault: Fault = Fault.NONE


@dataclass
class Run:
    """The record of a run."""

    points: list[Point] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)
    violation: str | None = None


def open_record(record: Record) -> Opened | None:
    """Read a record; a word that begins with "~" is of a type that nobody consumes."""
    assert record.value is not None
    assert record.headers
    word, event_id = record.value.decode(), (record.headers[0][1] or b"").decode()
    if word.startswith("?"):
        raise Malformed
    if word.startswith("~"):
        return None
    return Opened(Envelope(event_id, "test", "Word", 1, "", word[-1], record.value), Word(word=word))


class Process:
    """One worker process, and the supervisor that starts it again."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self.number = number
        self.due = number * START_ROUNDS
        """The round of its next turn."""
        self.frozen: int | None = None
        """The round when it froze."""
        self.idle = False
        self._dead = False
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self._turn.acquire()
        self._back = threading.Lock()
        self._back.acquire()
        self._failure: BaseException | None = None
        self._client: Client | None = None

    def take_turn(self) -> None:
        """Let the process run until it waits or ends."""
        if self._thread is None:
            self._dead, self.idle = False, False
            parts, world = self._world.parts, self._world
            self._connection = parts.connection(
                world.server, self.at, self.wait, world.later, world.rule, die=lambda: self._die(Fault.DIE)
            )
            self._thread = threading.Thread(target=self._live, daemon=True)
            self._thread.start()
        self._turn.release()
        self._back.acquire()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """End the process's thread with the world."""
        if self._thread is not None:
            self._dead = True
            self._turn.release()
            self._back.acquire()

    def heartbeat(self) -> None:
        """Send the group a heartbeat, as the client does while the process is not frozen."""
        if self._client is not None and self._client.member is not None and self.frozen is None:
            self._world.broker.last_heartbeat[self._client.member] = self._world.broker.round

    def server_side(self) -> Session | None:
        """The process's database session."""
        return self._connection.session if self._thread is not None else None

    # ---- on its own thread

    def wait(self, rounds: int) -> None:
        """Let the other processes run."""
        self.due = self._world.broker.round + rounds
        self._back.release()
        self._turn.acquire()
        if self._dead:
            raise Died

    def at(self, call: str, *more: Fault) -> Fault:
        """Reach a call; return its fault."""
        if self._dead:
            raise Died
        fault = self._world.choose(self.number, call, (*ALWAYS, *more))
        if fault in RESTART_ROUNDS:
            self._die(fault)
        elif fault in STALLS:
            self.frozen, self.idle = self._world.broker.round, False
            self.wait(STALLS[fault])
            self.frozen = None
        elif fault is Fault.EXPEL and self._client is not None:
            self._world.broker.expel(self._client.slot, self._client.member)
        return fault

    def _die(self, fault: Fault) -> NoReturn:
        if fault is Fault.DIE_LATE and self._connection.session is not None and self._connection.session.changes:
            self._connection.lose_late()
        elif fault is Fault.DIE_LATE and self._client is not None:
            self._client.end_late()
        elif fault is Fault.FORGET_OFFSETS and self._client is not None:
            self._client.be_forgotten(fault)
        self._connection.lose()
        self._dead = True
        self.due = self._world.broker.round + RESTART_ROUNDS[fault]
        raise Died

    def _live(self) -> None:
        self._turn.acquire()
        try:
            if not self._dead:
                self._work()
        except Died:
            pass
        except Exit:
            self.due = self._world.broker.round + 1
        except BaseException as failure:  # noqa: BLE001 - it is raised again on the thread that asked for this turn
            self._failure = failure
        finally:
            self._connection.lose()
            self._client, self._thread, self.frozen, self.idle = None, None, None, False
            self._back.release()

    def _work(self) -> None:
        """Do as `shared.worker.main_loop` does."""
        while (slot := self._connection.take_slot()) is None:
            self.idle = True
            self.wait(1)
        client = self._client = self._world.parts.client(self._world.broker, slot, self.at)
        cycle = self._world.parts.cycle("words", client, self._connection, open_record, self._world.limits, holds=holds)
        in_doubt, resumes = True, 0
        while True:
            try:
                if in_doubt:
                    cycle.recover()
                    in_doubt = False
                report = self._world.broker.round % REPORT_EVERY == 0
                if cycle.resumes != resumes:
                    for source, attempt in self._connection.attempts().items():
                        cycle.suspect(source, attempt)
                    cycle.pause(self._connection.paused())
                    resumes = cycle.resumes
                elif report:
                    cycle.pause(self._connection.observe_pauses())
                progress = cycle.run(0, report=report)
                retried = cycle.retry(count=True)
                self.idle = progress.idle and retried.idle and not cycle.parked()
                for source in cycle.parked():
                    cycle.unpark(source)
            except RecoveryNeeded:
                in_doubt, self.idle = True, False
            except Unavailable:
                self.idle = False
            self.wait(1)


class World:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, parts: Parts, choose: Choose) -> None:
        self.parts = parts
        self.run = Run()
        self.broker = parts.broker(2, scenario.version, self.rule, self._changed)
        self.server = parts.server(2, scenario.slots, self.rule, self._changed)
        self.limits = Limits(scenario.records, 2, parked=Bounds(scenario.parked, 1_000, 9, math.inf))
        self._script = list(scenario.script)
        self.consumed: dict[Place, Arrive] = {}
        self._requests: dict[str, Session] = {}
        self._choose = choose
        self._disturbed = 0
        self._thought = 0
        """For how many rounds a person has thought about the dead letter that holds a key."""
        self._processes = [Process(self, number) for number in range(scenario.processes)]

    def rule(self, name: str) -> None:
        """Note that a rule of the model was used."""
        self.run.rules[name] += 1

    def later(self, act: Callable[[], None]) -> None:
        """Let a request arrive later."""
        self.broker.later(LATE_ROUNDS, act)

    def choose(self, process: int, call: str, offered: tuple[Fault, ...]) -> Fault:
        """Decide what happens at a choice point."""
        point = Point(self.broker.round, process, call, offered)
        point.fault = self._choose(len(self.run.points), offered)
        self.run.points.append(point)
        if point.fault is not Fault.NONE:
            self._disturbed = self.broker.round
        return point.fault

    def play(self) -> Run:
        """Play until everything rests."""
        try:
            with patch.object(attempts, "PARTS", PARTS):
                self._play()
        except (Violated, Stop) as violation:
            self.run.violation = f"{type(violation).__name__}: {violation}"
        finally:
            for process in self._processes:
                process.end()
        return self.run

    def _play(self) -> None:
        rests = 0
        while rests <= REPORT_EVERY:
            fatal = sum(consume.word.strip("^")[0] in FATAL for consume in self.consumed.values())
            if self.broker.round > self._disturbed + REST_ROUNDS + fatal * FATAL_ROUNDS:
                raise Violated("the system does not come to rest")
            for process in self._processes:
                process.heartbeat()
            self.broker.pass_time()
            self._end_idle_transactions()
            if self._script and self._happens(self._script[0]):
                del self._script[0]
                self._disturbed = self.broker.round
            for process in self._processes:
                if process.due <= self.broker.round:
                    process.take_turn()
            resting = not self._script and self.broker.quiet() and all(p.idle for p in self._processes)
            rests = rests + 1 if resting else 0
        at_rest(self.broker, self.server, self._expected())

    def _end_idle_transactions(self) -> None:
        for process in self._processes:
            session = process.server_side()
            if process.frozen is None or session is None or session.changes is None:
                continue
            if process.frozen + IDLE_ROUNDS < self.broker.round:
                self.rule("an idle transaction is ended")
                self.server.end(session)

    def _happens(self, step: Step) -> bool:
        """Do a step of the script; return False if it must wait."""
        if isinstance(step, Arrive):
            source = Input("consumed", lane_of(step.word.strip(MARKS)[0]))
            log = self.broker.inputs[source]
            self.consumed[source, len(log.entries)] = step
            log.append_record((step.word.strip("-"), step.event_id), committed=not step.word.startswith("-"))
        elif isinstance(step, Redrive | Dismiss):
            about, redrive = step.key.encode(), isinstance(step, Redrive)
            self._thought = self._thought + 1 if self.server.undecided_about(about) else 0
            if self._thought < PERSON_ROUNDS or not self.server.decide(Session(), about, redrive=redrive):
                return False
            self._thought = 0
        elif isinstance(step, Pause):
            self.server.paused |= {step.topic}
        elif isinstance(step, Resume):
            self.server.paused -= {step.topic}
        elif isinstance(step, Close):
            self.server.commit(self._requests[step.name])
        else:
            session = self._requests.setdefault(step.name, Session())
            key = step.name[-1]
            if not self.server.try_lock(session, ("aggregate", key)):
                self.rule("a request waits for an aggregate")
                return False
            session.changes = Changes(outbox={self.server.next_id(): row_of(key, step.name)})
        return True

    def _expected(self) -> Mapping[str, int]:
        """Return every effect due; none for an event at whose records processes ended, nor for a duplicate that came
        while such a record was parked.
        """
        ended = self.server.ended
        aside = {h.event_id for place, h in self.consumed.items() if place in ended and place in self.server.was_parked}
        aside -= set(self.server.effects)
        return {
            h.event_id: 1
            for place, h in self.consumed.items()
            if h.word[0] not in "-?~" and place not in ended and h.event_id not in aside | self.server.dismissed
        }

    def _changed(self) -> None:
        at_any_time(self.broker, self.server)
