"""A worker is killed at the n-th request that it sends to Kafka or PostgreSQL, for every n of a whole cycle: once
before the request leaves this machine, and once right after delivery, while the answer is on its way.

The crash matrix kills between calls of the ports; most of these make several requests, and a library may be amid any of
them. A first run shows the places on the wire. A place is named by its request and how often that came before, since a
bare number would mean another place whenever a timer sends something. A new worker goes on after each kill, and the
books are compared each time.
"""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.postgres import wakeup
from shared.postgres.outbox import CHANNEL
from shared.testing import SECONDS_MAX, until
from shared.worker import observer
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Part, Wire, commit_of

pytestmark = pytest.mark.proof

ASIDE = frozenset(
    {"Fetch", "Heartbeat", "Metadata", "DescribeConfigs", "ApiVersions", "FindCoordinator", "startup", "p", "PS", ";"}
)
"""Requests sent at any time by timers and new connections, or to prepare a frequent statement (Parse and Sync alone);
they change nothing.
"""

OBSERVED = tuple(
    " ".join(str(query).split())[:50]
    for query in (
        observer._HANDLED,
        *(what._LOOK for what in observer.LOOKS),
        f"LISTEN {CHANNEL}",
        wakeup._LISTENS,
    )
)
"""How the queries begin of threads beside the main loop: the observer's, and those of the wake-up."""

ENDS = "ListOffsets"
"""The lag's gauge asks for it once a second; a start does too, where it counts."""

cleans = commit_of("DELETE FROM exactly_once_outbox")
"""Matches the COMMIT that deletes a cycle's rows."""


class What(Enum):
    """The worker's work when it dies."""

    EVENT = "event"
    """A cycle with an event to handle and one to publish."""
    REQUEST = "request"
    """A cycle with a row to publish that a request has put into the outbox."""
    START = "start"
    """The process's start, and cycles for what waits for it."""


BEGINS = {
    What.EVENT: "FOR UPDATE OF position",
    What.REQUEST: "FOR NO KEY UPDATE",
    What.START: "pg_try_advisory_lock",
}
"""The first statement that counts. Before it, an idle worker polls PostgreSQL, and a starting one makes its checks."""


@dataclass(frozen=True)
class Sends:
    """The kills at all requests of one kind of work."""

    what: What
    deed: Deed
    """CUT_BEFORE kills before the request leaves, PASS when it is delivered."""

    def __str__(self) -> str:
        return f"{self.what.value}-{'before' if self.deed is Deed.CUT_BEFORE else 'after'}"


def sends() -> Iterable[Sends]:
    """Return all of them, the longest first."""
    for what in (What.START, What.EVENT, What.REQUEST):
        yield from (Sends(what, deed) for deed in (Deed.CUT_BEFORE, Deed.PASS))


@dataclass(frozen=True)
class Place:
    """A request of a cycle."""

    name: str
    nth: int
    """How often it has come, including now."""

    def __str__(self) -> str:
        return f"{self.name}, time {self.nth}"


def counted(what: What) -> Callable[[Part], bool]:
    """Return a predicate for requests that count from now on."""
    begun = False

    def counts(request: Part) -> bool:
        nonlocal begun
        begun = begun or BEGINS[what] in request.name
        beside = request.name in ASIDE or request.name.startswith(OBSERVED)
        return begun and not beside and (what is What.START or request.name != ENDS)

    return counts


def named(name: str, what: What) -> Callable[[Part], bool]:
    """Return a predicate for requests of this name that count."""
    counts = counted(what)
    return lambda request: counts(request) and request.name == name


def places(requests: Sequence[Part], what: What) -> list[Place]:
    """Return the places of a cycle that ran to its end."""
    counts, seen = counted(what), Counter[str]()
    found: list[Place] = []
    for n, request in enumerate(requests, 1):
        if counts(request):
            seen[request.name] += 1
            found.append(Place(request.name, seen[request.name]))
        if through(requests[:n], what):
            return found
    raise AssertionError(f"the cycle does not end: {found}")


def through(requests: Sequence[Part], what: What) -> bool:
    """Return whether these requests handled, published and deleted all."""
    names = [request.name for request in requests]
    if "Produce" not in names:
        return False
    last = len(names) - names[::-1].index("Produce")
    handled = what is What.REQUEST or any("INSERT INTO effect" in name for name in names[:last])
    return handled and "EndTxn(commit)" in names[last:] and any(map(cleans, requests[last:]))


class Victims:
    """The workers of a stage, one after the other; all do the same until killed."""

    def __init__(self, stage: Stage, wire: Wire, what: What) -> None:
        self._stage = stage
        self._wire = wire
        self._what = what
        self._started = threading.Event()

    def start(self) -> None:
        """Start a worker, and let it do all its work."""
        self._start()
        self._stage.until_drained()

    def work(self) -> list[Part]:
        """Let the worker finish its work; return its requests."""
        begin = len(self._wire.notes)
        self._feed()
        self._stage.until_drained()
        return [note.request for note in self._wire.notes[begin:]]

    def killed_at(self, place: Place, deed: Deed) -> bool:
        """Let the worker work, and kill it at `place`; return whether it got there."""
        rule = self._wire.on(named(place.name, self._what), deed, nth=place.nth, call=self._kill)
        self._feed()
        self._stage.until(lambda: rule.happened.is_set() or self._stage.drained(), f"all is done, or {place}")
        if rule.withdrawn():
            return False
        rule.wait()
        self._until_dead()
        self.start()
        return True

    def _feed(self) -> None:
        if self._what is What.START:
            self._kill()
            self._until_dead()
        if self._what is not What.REQUEST:
            self._stage.ask(self._stage.keys[:1])
        if self._what is not What.EVENT:
            self._stage.request(self._stage.keys[:1])
        if self._what is What.START:
            self._start()

    def _start(self) -> None:
        self._worker = self._stage.worker(None, **self._wire.settings(self._stage.dsn))
        self._started.set()

    def _kill(self) -> None:
        # On the wire's thread, and perhaps before the other one knows whom it has started.
        assert self._started.wait(SECONDS_MAX)
        self._worker.send(signal.SIGKILL)

    def _until_dead(self) -> None:
        """Wait until the worker is dead and its connections are gone."""
        assert self._worker.ended() == -signal.SIGKILL
        until(lambda: self._wire.connections == 0, "the wire is empty")
        self._started.clear()


def play(cell: Sends, servers: Servers, logs: Path) -> list[str]:
    """Kill a worker at its first request, the next one at its second, and so on until the last one of the cycle."""
    with Wire.before(servers) as wire, Stage(servers, logs, partitions=1) as stage:
        victims = Victims(stage, wire, cell.what)
        stage.ask()
        stage.request()
        victims.start()
        cycle = places(victims.work(), cell.what)
        met = set()
        for place in cycle:
            if victims.killed_at(place, cell.deed):
                met.add(place.name)
                if problems := stage.problems():
                    return [f"killed at {place}", *problems]
        # What came more than once in the first run, since something was slow or idle, need not come as often again.
        return [f"never killed at {name}" for name in {place.name for place in cycle} - met]


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("cell", tuple(sends()), ids=str)
def test_a_worker_that_is_killed_at_any_send(cell: Sends, problems: list[str]) -> None:
    assert problems == []
