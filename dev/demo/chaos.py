"""Kills and freezes processes by a plan that is made from a seed."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Literal

from dev.demo.stage import Stage

# The default transaction timeout of a worker (12 s), the broker's clean-up interval (1 s), and a margin: when it is
# thawed, its group has gone on without it and its open transaction was ended by the broker.
FREEZE_SECONDS = 15.0
# Freezes overlap: each begins this long after the one before.
FREEZE_DISTANCE_SECONDS = 1.5
# Nothing is struck before orders flow, nor in the last moments: a recovery shows only while orders flow.
QUIET_SECONDS = 3.0
OTHERS_SHARE = 0.2
SERVERS = 2

# The bank is away so long that its callers leave it alone, and come back.
BANK_SECONDS = 20.0

Kind = Literal["kill", "freeze", "kill kafka", "kill postgres", "bank"]
"""`bank`: it is frozen, so that it takes connections and answers none."""


@dataclass(frozen=True)
class Blow:
    """One planned fault: the victim, and when, in seconds after the start."""

    moment: float
    kind: Kind
    victim: str
    """The name of a process; empty for a server."""
    seconds: float = 0.0
    """How long it lasts: a freeze until the thaw, a server until it is started again."""


@dataclass(frozen=True)
class Struck:
    """A blow that was struck."""

    blow: Blow
    at: float
    """When, by `time.monotonic`."""
    hit: bool
    """False if the victim was not running just then."""


def plan(
    seed: int,
    seconds: float,
    workers: Sequence[str],
    others: Sequence[str] = (),
    *,
    kills: int,
    freezes: int = 0,
    freeze_seconds: float = FREEZE_SECONDS,
) -> tuple[Blow, ...]:
    """Plan blows within `seconds`. A kill hits a worker, now and then one of `others`; a freeze a worker.

    A frozen worker is not killed: it is meant to wake up and find that the world went on.
    """
    random_ = random.Random(seed)
    first, last = QUIET_SECONDS, max(QUIET_SECONDS, seconds - QUIET_SECONDS)
    blows: list[Blow] = []
    if freezes:
        length = freeze_seconds + (freezes - 1) * FREEZE_DISTANCE_SECONDS
        start = random_.uniform(first, max(first, last - length))
        victims = random_.sample(list(workers), min(freezes, len(workers)))
        blows += [
            Blow(start + number * FREEZE_DISTANCE_SECONDS, "freeze", victim, freeze_seconds)
            for number, victim in enumerate(victims)
        ]
    for number in range(kills):
        moment = first + (last - first) * (number + random_.random()) / kills
        frozen = {blow.victim for blow in blows if blow.kind == "freeze" and _meets(blow, moment)}
        group = others if others and random_.random() < OTHERS_SHARE else workers
        if victims_left := [name for name in group if name not in frozen]:
            blows.append(Blow(moment, "kill", random_.choice(victims_left)))
    return tuple(sorted(blows, key=lambda blow: blow.moment))


def outage(seed: int, seconds: float, bank: str) -> Blow:
    """Plan when the bank is away: it is back while orders still flow, unless the time is too short for that."""
    last = max(QUIET_SECONDS, seconds - BANK_SECONDS - QUIET_SECONDS)
    return Blow(random.Random(f"{seed}:bank").uniform(QUIET_SECONDS, last), "bank", bank, BANK_SECONDS)


def _meets(freeze: Blow, moment: float) -> bool:
    return freeze.moment - 1 <= moment <= freeze.moment + freeze.seconds + 1


class Chaos:
    """Strikes, once, what is planned."""

    def __init__(self, system: Stage, blows: Sequence[Blow], on_blow: Callable[[Struck], None]) -> None:
        self._system = system
        self._blows = blows
        self._on_blow = on_blow
        self._stopping = threading.Event()
        self._starts: dict[Kind, Future[None]] = {}
        self.struck: list[Struck] = []

    def stop(self) -> None:
        """Strike no more, and undo what is not undone yet."""
        self._stopping.set()

    def run(self) -> None:
        """Strike all blows at their moments. When it returns, every process is thawed and every server up."""
        began = time.monotonic()
        acts = [(blow.moment, partial(self._strike, blow)) for blow in self._blows]
        acts += [(blow.moment + blow.seconds, partial(self._undo, blow)) for blow in self._blows]
        with ThreadPoolExecutor(SERVERS) as self._pool:
            try:
                for moment, act in sorted(acts, key=itemgetter(0)):
                    if self._stopping.wait(max(0.0, began + moment - time.monotonic())):
                        break
                    act()
            finally:
                for struck in self.struck:
                    self._undo(struck.blow)
                for kind in tuple(self._starts):
                    self._started(kind)

    def _strike(self, blow: Blow) -> None:
        hit = True
        match blow.kind:
            case "kill":
                hit = self._system.supervisor.kill(blow.victim)
            case "freeze" | "bank":
                hit = self._system.supervisor.freeze(blow.victim)
            case "kill kafka":
                self._started(blow.kind)
                self._system.servers.kafka.kill()
            case "kill postgres":
                self._started(blow.kind)
                self._system.servers.postgres.kill()
        self.struck.append(Struck(blow, time.monotonic(), hit))
        self._on_blow(self.struck[-1])

    def _undo(self, blow: Blow) -> None:
        """Thaw, or start the server again; does nothing the second time."""
        match blow.kind:
            case "freeze" | "bank":
                self._system.supervisor.thaw(blow.victim)
            case "kill kafka":
                self._start(blow.kind, self._system.servers.kafka.start)
            case "kill postgres":
                self._start(blow.kind, self._system.servers.postgres.start)
            case "kill":
                pass  # the supervisor starts it again

    def _start(self, kind: Kind, start: Callable[[], None]) -> None:
        """Begin to start a server: it takes seconds, and the other blows do not wait for it."""
        if kind not in self._starts:
            self._starts[kind] = self._pool.submit(start)

    def _started(self, kind: Kind) -> None:
        """Wait until a server that is starting is up."""
        if kind in self._starts:
            self._starts.pop(kind).result()
