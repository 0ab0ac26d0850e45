"""A worker is killed at the n-th request that it sends, to Kafka or to PostgreSQL, for every n of a whole cycle: once
before the request leaves this machine, and once right after it was delivered, while the answer is on its way.

The crash matrix kills between the calls of the ports; most of these make several requests, and a library may be in the
middle of any of them. Here nobody chooses the places: they are counted on the wire. A new worker goes on after each
kill, and the books are compared each time.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from dev.servers import Servers
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Part, Wire, commit_of
from tests.waiting import SECONDS_MAX, until

SENDS_MAX = 300
"""A cycle has about 20, a start with its first two cycles about 65; beyond this something is wrong."""

ASIDE = frozenset({"Fetch", "Heartbeat", "Metadata", "ApiVersions"})
"""Sent by timers and by new connections, from threads of their own, and they change nothing: they are not counted, or n
would stand for another place each time.
"""

cleans = commit_of("DELETE FROM outbox")
"""The end of a cycle's rows: they are said, and deleted."""


class What(Enum):
    """What the worker is doing."""

    EVENT = "event"
    """One cycle, with an event to handle and to say."""
    REQUEST = "request"
    """One cycle, with a row to say that a request has put into the outbox."""
    START = "start"
    """The start of the process, and the cycles of what waits for it."""


BEGINS = {
    What.EVENT: "FOR UPDATE OF position",
    What.REQUEST: "FOR NO KEY UPDATE",
    What.START: "pg_try_advisory_lock",
}
"""The first statement that counts. Before it, an idle worker asks PostgreSQL again and again; one that starts looks
whether everything is as it should be.
"""


@dataclass(frozen=True)
class Sends:
    """All requests of something."""

    what: What
    deed: Deed
    """DROP_REQUEST: killed before it leaves; PASS: killed when it was delivered."""

    def __str__(self) -> str:
        return f"{self.what.value}-{'before' if self.deed is Deed.DROP_REQUEST else 'after'}"


def sends() -> Iterable[Sends]:
    """All of them, the longest first."""
    for what in (What.START, What.EVENT, What.REQUEST):
        yield from (Sends(what, deed) for deed in (Deed.DROP_REQUEST, Deed.PASS))


def counted(what: What) -> Callable[[Part], bool]:
    """Give what tells whether a request counts, from now on."""
    begun = False

    def counts(request: Part) -> bool:
        nonlocal begun
        begun = begun or BEGINS[what] in request.name
        return begun and request.name not in ASIDE

    return counts


def through(requests: Sequence[Part], what: What) -> bool:
    """Whether all was handled, said and deleted before the last of these requests."""
    names = [request.name for request in requests[:-1]]
    if "Produce" not in names:
        return False
    last = len(names) - names[::-1].index("Produce")
    handled = what is What.REQUEST or any("INSERT INTO effect" in name for name in names[:last])
    return handled and "EndTxn(commit)" in names[last:] and any(map(cleans, requests[last:-1]))


class Victims:
    """Workers of one stage, one after the other."""

    def __init__(self, stage: Stage, wire: Wire) -> None:
        self._stage = stage
        self._wire = wire
        self._started = threading.Event()

    def start(self) -> None:
        self._worker = self._stage.worker(None, **self._wire.settings(self._stage.dsn))
        self._started.set()

    def kill(self) -> None:
        """Kill the one that runs; may be called on the wire's thread, even before `start` has returned."""
        assert self._started.wait(SECONDS_MAX)
        self._worker.send(signal.SIGKILL)

    def until_dead(self) -> None:
        """Wait until it is, and nothing of it is on the wire any more."""
        assert self._worker.ended() == -signal.SIGKILL
        until(lambda: self._wire.connections == 0, "the wire is empty")
        self._started.clear()


def play(cell: Sends, servers: Servers, logs: Path) -> list[str]:
    """Kill a worker at its first request, the next one at its second, and so on until all of them come through."""
    with Wire.before(servers) as wire, Stage(servers, logs, partitions=1) as stage:
        victims = Victims(stage, wire)
        victims.start()
        stage.ask()
        stage.request()
        stage.until_drained()
        met: list[str] = []
        for n in range(1, SENDS_MAX):
            if cell.what is What.START:
                victims.kill()
                victims.until_dead()
            begin = len(wire.notes)
            rule = wire.on(counted(cell.what), cell.deed, nth=n, call=victims.kill)
            if cell.what is not What.REQUEST:
                stage.ask(stage.keys[:1])
            if cell.what is not What.EVENT:
                stage.request(stage.keys[:1])
            if cell.what is What.START:
                victims.start()
            stage.until(rule.happened.is_set, f"request {n} comes")
            victims.until_dead()
            victims.start()
            stage.until_drained()
            requests = [note.request for note in wire.notes[begin:]]
            assert rule.request
            requests = requests[: requests.index(rule.request) + 1]
            met.append(requests[-1].name)
            if problems := stage.problems():
                return [f"killed at request {n}, {met[-1]}", *problems]
            if through(requests, cell.what):
                (logs / f"{cell}.sends").write_text("\n".join(met))
                counts = counted(cell.what)
                return [f"never killed at {r.name}" for r in requests if counts(r) and r.name not in met]
        return [f"{SENDS_MAX} requests are not a whole cycle: {met}"]


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("cell", tuple(sends()), ids=str)
def test_a_worker_that_is_killed_at_any_send(cell: Sends, problems: list[str]) -> None:
    assert problems == []
