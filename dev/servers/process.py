"""One running server: start it under a guard, send it signals, wait for it, and show why it failed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dev.servers import guard
from dev.servers.unprivileged import Account

POLL_SECONDS = 0.05
KILL_SECONDS_MAX = 10.0
SPAWN_SECONDS_MAX = 30.0  # two interpreters on a busy machine
PORT_TAKEN = "Address already in use"  # the C library's words, in the logs of both servers
LOG_LINES = 25  # enough for a Java stack trace's head and its cause

Echo = Callable[[str], None]


def environment(**more: str) -> dict[str, str]:
    """Return the variables for a server: those without which a program may not start; the rest would configure it."""
    names = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ} | more


class ServerError(Exception):
    """A server could not be started, or did not do what was waited for."""


class PortTaken(ServerError):
    """Another process listens on the port."""


def echo(message: str) -> None:
    """Report progress where it does not mix with what a program prints as its result."""
    print(message, file=sys.stderr, flush=True)


class Process:
    """A server in a session of its own, so that Ctrl-C does not reach it before those who still use it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        directory: Path,
        log: Path,
        env: Mapping[str, str],
        account: Account | None = None,
        last_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self._log = log
        self._log_begin = log.stat().st_size if log.exists() else 0
        ids = f"{account.user}:{account.group}" if account else ""
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, ids, str(int(last_signal)), directory, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=directory,
                env=dict(env),
                bufsize=0,
                start_new_session=True,
            )
        assert self._guard.stdout
        with self._guard.stdout as answer:
            line = answer.readline()
        if not line:
            self._guard.wait(SPAWN_SECONDS_MAX)
            raise ServerError(f"{name} could not be started.{self.tail()}")
        self.pid = int(line)

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, through the guard: it alone knows for sure that the pid is still the server's."""
        assert self._guard.stdin
        if self.running:
            with suppress(BrokenPipeError):  # it has ended meanwhile
                self._guard.stdin.write(b"%d\n" % number)

    def end(self, number: signal.Signals, seconds_max: float) -> None:
        """Send a signal that ends the server, and wait until it has ended; kill it after `seconds_max`."""
        self.send(number)
        try:
            self._guard.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._guard.wait(seconds_max)
        assert self._guard.stdin
        self._guard.stdin.close()

    def until(self, condition: Callable[[], bool], what: str, seconds_max: float) -> None:
        """Wait until `condition` holds; else end the server, and fail with the end of its log."""
        deadline = time.monotonic() + seconds_max
        while not condition():
            ended = not self.running
            if ended or time.monotonic() > deadline:
                self.end(signal.SIGKILL, KILL_SECONDS_MAX)
                kind = PortTaken if PORT_TAKEN in self.output() else ServerError
                how = "ended" if ended else f"ran for {seconds_max:.0f} s, which is too long,"
                raise kind(f"{self.name} {how} before {what}.{self.tail()}")
            time.sleep(POLL_SECONDS)

    def output(self) -> str:
        """Return what this run of the server has logged; an earlier run's log stands in the same file."""
        with self._log.open("rb") as log:
            log.seek(self._log_begin)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        lines = self.output().splitlines()[-LOG_LINES:]
        return f" The end of {self._log}:\n" + "\n".join(f"    {line}" for line in lines)
