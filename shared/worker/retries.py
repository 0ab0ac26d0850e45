"""When what has to wait is tried again: parked inputs each time later, and spread out; parked records when PostgreSQL
says that they are due.
"""

import random
import time
from collections.abc import Callable

from ..errors import ProcessEnded
from ..protocol.cycle import Cycle
from ..protocol.ports import Input
from ..telemetry.failures import log_retry

PAUSE_SECONDS = 0.1
"""Doubled for each attempt, the first one included."""
DOUBLINGS_MAX = 16
"""The setting is reached long before: 0.1 s doubled this often is 1.8 hours."""


class Retries:
    """The parked inputs of one worker."""

    def __init__(
        self, seconds_max: float, calm_seconds: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_max = seconds_max
        self._calm_seconds = calm_seconds
        """How long this process lives before it retries a record at which others were killed."""
        self._clock = clock
        self._due: dict[Input, float] = {}
        self._random = random.Random()  # noqa: S311 - it spreads attempts in time

    def release(self, cycle: Cycle) -> None:
        """Unpark the inputs of `cycle` that have waited long enough; log those that have just begun to wait."""
        now, parked = self._clock(), cycle.parked()
        for source, attempts in parked.items():
            if source not in self._due:
                longest = min(PAUSE_SECONDS * 2 ** min(attempts, DOUBLINGS_MAX), self._seconds_max)
                pause = longest * self._random.uniform(0.5, 1.0)
                record, error = cycle.waits_for(source)
                if isinstance(error, ProcessEnded):
                    pause = self._calm_seconds
                self._due[source] = now + pause
                log_retry(error, record, attempts, pause)
            elif self._due[source] <= now:
                del self._due[source]
                cycle.unpark(source)
        self._due = {source: due for source, due in self._due.items() if source in cycle.parked()}


ASK_SECONDS = 0.05
"""Between two questions whether parked records are due: what was known of it is up to a second old."""


class ParkedRetries:
    """When a worker asks for parked records that are due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0.0

    def at_most(self, cycle: Cycle, seconds: float) -> float:
        """Return how long the next cycle may wait for records, if it could wait for `seconds`."""
        if not cycle.waiting:
            return seconds
        return min(seconds, max(self._due - self._clock(), 0.0))

    def are_due(self, cycle: Cycle, *, count: bool) -> bool:
        """Whether to ask now; when they are counted, in any case."""
        if not cycle.waiting:
            self._due = self._clock() + ASK_SECONDS
            return False
        return count or self._clock() >= self._due

    def tried(self, cycle: Cycle, *, idle: bool) -> None:
        """Note that `cycle` was asked, and found nothing that is due, or something: then more may be."""
        self._due = self._clock() + (max(cycle.due_seconds, ASK_SECONDS) if idle else 0.0)
