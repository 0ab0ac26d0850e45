"""A command in a terminal of its own, to be typed into and hung up."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.testing import until
from tests.signals import not_ignored

CTRL_C = "\x03"
END_SECONDS = 30.0
READ_BYTES = 65_536
POLL_SECONDS = 0.05
SHOWN_MAX = 4_000
"""Characters that a failure shows."""


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    not_ignored()


class Terminal:
    """Runs a command as a shell does that has nothing else to run; ends it with the block."""

    def __init__(self, words: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=dict(env),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_own_terminal,  # noqa: PLW1509 - nothing else runs here between fork and exec
        )
        os.close(theirs)
        self._read = bytearray()
        self._hung_up = threading.Event()
        self._reading = threading.Thread(target=self._follow, daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(END_SECONDS)
        self.hang_up()
        if error is not None:
            sys.stdout.write(self.text)  # pytest shows it

    @property
    def text(self) -> str:
        """Everything that was written so far."""
        return self._read.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._ours, text.encode())

    def until(self, words: str, times: int = 1, seconds: float = END_SECONDS) -> None:
        """Wait until it has written `words`."""
        try:
            until(lambda: self.text.count(words) >= times, f"{words!r}, {times} times", seconds)
        except AssertionError as error:
            error.add_note(f"It has written:\n{self.text[-SHOWN_MAX:]}")
            raise

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed."""
        if not self._hung_up.is_set():
            self._hung_up.set()
            self._reading.join(END_SECONDS)  # while somebody reads it, it is not closed
            os.close(self._ours)

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(END_SECONDS)

    def _follow(self) -> None:
        with suppress(OSError):  # hung up; or, on Linux, all on the other side have ended
            while not self._hung_up.is_set():
                if select.select([self._ours], [], [], POLL_SECONDS)[0]:
                    self._read += os.read(self._ours, READ_BYTES)
