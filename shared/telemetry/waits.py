"""The waits of the main loop, watched from another thread. Each has a limit; a long one is shown in health, and by one
line in the log.

Calls of the Kafka client and the database do not return while they wait. So each wait is noted before the call, which
costs a microsecond, and another thread reports it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .logs import log

LONG_SECONDS = 3.0
"""Waits are shorter while all is well. One that takes this long is reported."""


@dataclass
class Wait:
    """One wait; `what` may be made more precise while it lasts."""

    what: str
    began: float
    """By the clock of `Waits`."""
    seconds: float
    """Its limit; after it the call fails, or is repeated."""
    within: "Wait | None"
    reported: bool = False


class Waits:
    """The waits of one thread, which may be nested: a recovery consists of several waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: Wait | None = None

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[Wait]:
        """Note that this block waits for `what`, for `seconds` at most."""
        wait = self.begin(what, seconds)
        try:
            yield wait
        finally:
            self.end(wait)

    def begin(self, what: str, seconds: float) -> Wait:
        """Begin a wait that is not a block; the caller must `end` it."""
        self._now = wait = Wait(what, self._clock(), seconds, self._now)
        return wait

    def end(self, wait: Wait) -> None:
        """End a wait from `begin`, and those within it. Does nothing if it ended with an outer wait."""
        inner = self._now
        while inner is not None and inner is not wait:
            inner = inner.within
        if inner is not None:
            self._now = wait.within

    def words(self) -> str:
        """Describe the innermost long wait, and its end; empty if there is none."""
        wait = self._long()
        return "" if wait is None else self._words(wait)

    def tell(self) -> None:
        """Log a wait that has become long, once."""
        wait = self._long()
        if wait is None or wait.reported:
            return
        log.warning("waits_long", detail=self._words(wait))
        around: Wait | None = wait
        while around is not None:
            around.reported = True
            around = around.within

    def _long(self) -> Wait | None:
        wait = self._now
        while wait is not None and self._clock() - wait.began < LONG_SECONDS:
            wait = wait.within
        return wait

    def _words(self, wait: Wait) -> str:
        passed = self._clock() - wait.began
        if passed > wait.seconds:
            return f"it has been waiting {passed:.0f} s for {wait.what}, beyond its limit of {wait.seconds:.0f} s"
        until = datetime.now(UTC) + timedelta(seconds=wait.seconds - passed + 1)  # its fraction is cut off
        return f"it has been waiting {passed:.0f} s for {wait.what}, until {until:%H:%M:%S} UTC at the latest"


MAIN_LOOP = Waits()
"""The waits of a worker's main loop."""
