"""What the main loop waits for, seen from beside it: each wait has a limit, and one that takes long is told, in health
and with one line in the log.

The calls of the Kafka client and of the database do not come back while they wait. So what is waited for is noted
before, which costs a microsecond, and told by another thread.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .logs import log

TOLD_SECONDS = 3.0
"""Waits are shorter while all is well. One that takes so long is told."""


@dataclass
class Wait:
    """One wait; who waits may say more exactly for what, while it lasts."""

    what: str
    began: float
    """By the clock of `Waits`."""
    seconds: float
    """Its limit; then it fails, or is tried again."""
    within: "Wait | None"
    told: bool = False


class Waits:
    """The waits of one thread, which may be nested: a recovery waits for this and then for that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: Wait | None = None

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[Wait]:
        """Wait for `what` in this block, for `seconds` at the most."""
        wait = self.begin(what, seconds)
        try:
            yield wait
        finally:
            self.end(wait)

    def begin(self, what: str, seconds: float) -> Wait:
        """Begin a wait that is no block of its own; whoever begins it ends it."""
        self._now = wait = Wait(what, self._clock(), seconds, self._now)
        return wait

    def end(self, wait: Wait) -> None:
        """End what `begin` gave, and what began within it. What has ended with a wait around it has ended."""
        inner = self._now
        while inner is not None and inner is not wait:
            inner = inner.within
        if inner is not None:
            self._now = wait.within

    def words(self) -> str:
        """Describe what it has been waiting long, as exactly as possible, and until when; empty if it has not."""
        wait = self._long()
        return "" if wait is None else self._words(wait)

    def tell(self) -> None:
        """Log a wait that has become long, once."""
        wait = self._long()
        if wait is None or wait.told:
            return
        log.warning("waits_long", detail=self._words(wait))
        around: Wait | None = wait
        while around is not None:
            around.told = True
            around = around.within

    def _long(self) -> Wait | None:
        wait = self._now
        while wait is not None and self._clock() - wait.began < TOLD_SECONDS:
            wait = wait.within
        return wait

    def _words(self, wait: Wait) -> str:
        passed = self._clock() - wait.began
        if passed > wait.seconds:
            return f"it has been waiting {passed:.0f} s for {wait.what}, though {wait.seconds:.0f} s are the limit"
        until = datetime.now(UTC) + timedelta(seconds=wait.seconds - passed)
        return f"it has been waiting {passed:.0f} s for {wait.what}, until {until:%H:%M:%S} UTC at the latest"


MAIN_LOOP = Waits()
"""Those of a worker's main loop."""
