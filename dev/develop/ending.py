"""The signals that end a session: the first one in order, an impatient Ctrl+C at once."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from dev.develop.merged import silence

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """The session was asked to end."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell says of a process that the signal has ended."""
        return 128 + self.number


class Ending:
    """Raises `Ended` in the main thread at the first signal."""

    def __init__(self) -> None:
        self.begun = False
        self.at_once: list[Callable[[], None]] = []
        """What is done at a second Ctrl+C, before the process ends."""

    def install(self) -> None:
        """Handle the signals. A shell in the background has had us ignore SIGINT; nohup means SIGHUP to be ignored."""
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # the terminal is gone
            silence(sys.stdout, sys.stderr)
        if not self.begun:
            self.begun = True
            raise Ended(signal.Signals(number))
        # Others come twice without being meant so: to a whole group, and once more from make.
        if number == signal.SIGINT:
            for act in self.at_once:
                with suppress(OSError):  # the others remain to be done
                    act()
            os._exit(128 + number)
