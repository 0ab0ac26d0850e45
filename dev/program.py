"""A program to keep running, and the process that runs it at the moment."""

import signal
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from dev import processes

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
    foreground: bool = False
    """It has our terminal, for a debugger: it is not logged, and nothing kills it because it takes long to end."""
    quick_seconds: float = QUICK_SECONDS
    """An exit sooner than this after the start will probably be repeated by the next start."""
    hopeless: Collection[int] = ()
    """Exit codes that, so soon, will certainly be repeated: it is not started again until it is asked for."""


@dataclass(frozen=True)
class Exit:
    """One process that ended."""

    name: str
    cause: str
    """`exit 1`, or the name of the signal; or why it could not be started."""
    ordered: bool
    """Whether it was killed or stopped through the supervisor."""
    lived_seconds: float
    again: bool
    """Whether it is started again by itself."""


class Child:
    """A program and its present process. Used by one thread only, the one that started it."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.wanted = True
        self.quick_exits = 0
        self.given_up = False
        self._restart_at: float | None = None
        self._kill_at: float | None = None
        self._spawn()

    def _spawn(self) -> None:
        self.ordered = self.again = self.asked = False
        self._restart_at = self._kill_at = None
        self._started = time.monotonic()
        what = self.program
        self.log.parent.mkdir(parents=True, exist_ok=True)  # somebody may have cleaned up beneath us
        with self.log.open("ab") as output:
            self.process: Popen[bytes] = processes.start(
                what.command,
                env=what.env,
                cwd=what.cwd,
                output=None if what.foreground else output,
                foreground=what.foreground,
            )
        self.running = True

    def send(self, number: signal.Signals) -> bool:
        return self.process.poll() is None and processes.send(self.process, number)

    def ask(self, kill_after: float | None = None) -> bool:
        """Ask the process to end, with SIGTERM, and kill it if that takes longer; False if it has ended. It is asked
        once: to a second SIGTERM it would end at once, in the midst of its work.
        """
        if not self.asked:
            self.asked = self.send(signal.SIGTERM)
            if kill_after is not None and not self.program.foreground:
                self._kill_at = time.monotonic() + kill_after
        return self.asked and self.running

    def renew(self) -> None:
        """Start it again now, though it has ended for good or is to wait."""
        self.quick_exits = 0
        self.wanted, self.given_up = True, False
        self._restart_at = time.monotonic()

    def reap(self) -> Exit | None:
        """Note the end of the process, once, and when to start it again."""
        if self.running and self._kill_at is not None and time.monotonic() > self._kill_at:
            self._kill_at = None
            self.send(signal.SIGKILL)
        if not self.running or (code := self.process.poll()) is None:
            return None
        return self._ended(f"exit {code}" if code >= 0 else signal.Signals(-code).name, code)

    def _ended(self, cause: str, code: int | None = None) -> Exit:
        self.running = False
        lived = time.monotonic() - self._started
        quick = lived < self.program.quick_seconds and not self.ordered
        self.quick_exits = self.quick_exits + 1 if quick else 0
        self.given_up = self.quick_exits >= QUICK_EXITS_MAX or (quick and code in self.program.hopeless)
        again = self.wanted and (code != 0 or self.again) and not self.given_up
        if again:
            pause = RESTART_SECONDS_MIN * 2 ** max(0, self.quick_exits - 1)
            self._restart_at = time.monotonic() + min(pause, RESTART_SECONDS_MAX)
        return Exit(self.program.name, cause, self.ordered, lived, again)

    def start_again_if_due(self) -> Exit | None:
        """Start it again if it is time to; one that cannot be started counts as one that has ended at once."""
        if self.wanted and self._restart_at is not None and time.monotonic() >= self._restart_at:
            try:
                self._spawn()
            except OSError as error:  # too many processes or files, a disk that is full
                return self._ended(f"it could not be started: {error}")
        return None
