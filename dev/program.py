"""A program to keep running, and the process that runs it at the moment."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from dev import processes

# An exit sooner than this after the start will probably be repeated by the next start.
QUICK_SECONDS = 5.0
RESTART_SECONDS_MIN = 0.1
# While a server is away, a process that ends at once is tried this often: seldom enough to leave the CPU to others.
RESTART_SECONDS_MAX = 3.0
# About a minute of quick exits. A server that restarts takes less; a longer outage will not end by itself.
QUICK_EXITS_MAX = 20


@dataclass(frozen=True)
class Program:
    """What to run, and the name by which it is known."""

    name: str
    command: Sequence[str | Path]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True)
class Exit:
    """One process that ended."""

    name: str
    cause: str
    """`exit 1`, or the name of the signal."""
    ordered: bool
    """Whether it was killed or stopped through the supervisor."""
    lived_seconds: float


class Child:
    """A program and its present process. Used by one thread only, the one that started it."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.wanted = True
        self.quick_exits = 0
        self._restart_at: float | None = None
        self._spawn()

    def _spawn(self) -> None:
        self.ordered = self.again = False
        self._restart_at = None
        self._started = time.monotonic()
        with self.log.open("ab") as output:
            self.process: Popen[bytes] = processes.start(
                self.program.command, env=self.program.env, cwd=self.program.cwd, output=output
            )
        self.running = True

    def send(self, number: signal.Signals) -> bool:
        return self.process.poll() is None and processes.send(self.process, number)

    def reap(self) -> Exit | None:
        """Note the end of the process, once, and when to start it again."""
        if not self.running or (code := self.process.poll()) is None:
            return None
        self.running = False
        lived = time.monotonic() - self._started
        cause = f"exit {code}" if code >= 0 else signal.Signals(-code).name
        self.quick_exits = self.quick_exits + 1 if lived < QUICK_SECONDS and not self.ordered else 0
        if self.wanted and (code != 0 or self.again) and not self.given_up:
            pause = RESTART_SECONDS_MIN * 2 ** max(0, self.quick_exits - 1)
            self._restart_at = time.monotonic() + min(pause, RESTART_SECONDS_MAX)
        return Exit(self.program.name, cause, self.ordered, lived)

    def start_again_if_due(self) -> None:
        if self.wanted and self._restart_at is not None and time.monotonic() >= self._restart_at:
            self._spawn()

    @property
    def given_up(self) -> bool:
        return self.quick_exits >= QUICK_EXITS_MAX
