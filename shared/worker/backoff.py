"""The waits of a worker before it asks a server again: longer each time, unready, and shown in health and log."""

import random

from ..errors import KafkaUnavailable, Unavailable
from ..telemetry import outages
from ..telemetry.failures import LOGGED_MAX
from ..telemetry.metrics import log
from .health import Health
from .stopping import Stopping
from .watchdog import Watchdog

PAUSE_MIN, PAUSE_MAX = 0.1, 2.0
"""Seconds between two attempts while a server is unavailable."""


class Backoff:
    """The waits of a worker between attempts. Each ends at once when the process is asked to stop."""

    def __init__(self, health: Health, watchdog: Watchdog, stopping: Stopping) -> None:
        self._health = health
        self._watchdog = watchdog
        self._stopping = stopping
        self._random = random.Random()  # noqa: S311 - it spreads attempts in time
        self._pause = PAUSE_MIN

    def succeeded(self) -> None:
        """Start over with the shortest wait."""
        self._pause = PAUSE_MIN

    def failed(self, error: Unavailable) -> None:
        """Wait because a server did not answer; longer each time."""
        self.missed(error, self._pause)
        self._pause = min(2 * self._pause, PAUSE_MAX)

    def missed(self, error: Unavailable, seconds: float | None = None) -> None:
        """Report that a server did not answer, and wait."""
        outage = outages.KAFKA if isinstance(error, KafkaUnavailable) else outages.DATABASE
        outage.missed("worker", str(error))
        self.wait(error, seconds)

    def wait(self, why: Exception, seconds: float | None = None) -> None:
        """Report why, and wait for `seconds`, or for `PAUSE_MAX`."""
        self._health.enter("waiting", str(why), ready=False)
        log.warning("waiting", error=type(why).__name__, detail=str(why)[:LOGGED_MAX])
        self._watchdog.rest()
        self._stopping.wait((PAUSE_MAX if seconds is None else seconds) * self._random.uniform(0.5, 1.0))
