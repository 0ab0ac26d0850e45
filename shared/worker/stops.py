"""Reasons to stop: proven before a worker stops, and checked again while it is stopped.

One client may be wrong: it may have taken an outage for a loss. So a worker stops only after other clients have
confirmed the reason, and goes on once the reason is gone.
"""

import random
import time
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from ..errors import (
    CommandFailed,
    ContentStuck,
    Misconfigured,
    NotLetIn,
    Stop,
    TooManyDeadLetters,
    Unavailable,
    Unproven,
)
from ..telemetry.failures import LOGGED_MAX
from ..telemetry.metrics import log
from .backoff import Backoff
from .health import Health
from .observer import Observer
from .stopping import Stopping
from .watchdog import Watchdog

CONFIRM_SECONDS = 1.0
"""Before a worker stops, it asks all servers again, this much later: another one may have come up meanwhile."""

REPEAT_SECONDS = 60.0
"""How often a stopped worker repeats why."""

PROBE_MIN, PROBE_MAX = 2.0, 15.0
"""Seconds between two checks of a stopped worker for its reason; it resumes this long after a decision."""

LISTED_MAX = 20
"""Reasons in one log line."""


class Stops:
    """Asks the servers with its own clients: `stands` returns the reasons to stop, the deepest cause first; `check`
    verifies what a worker needs to start.
    """

    def __init__(
        self,
        *,
        stands: Callable[[Stop | NotLetIn], Sequence[Stop]],
        check: Callable[[], None],
        observer: Observer,
        health: Health,
        backoff: Backoff,
        watchdog: Watchdog,
        stopping: Stopping,
    ) -> None:
        self._stands = stands
        self._check = check
        self._observer = observer
        self._health = health
        self._backoff = backoff
        self._watchdog = watchdog
        self._stopping = stopping
        self._random = random.Random()  # noqa: S311 - it spreads attempts in time

    def check(self) -> None:
        """Repeat the checks before work until they pass. Raises `Stop` only if it is proven."""
        while not self._stopping.is_set():
            try:
                self._check()
            except Stop as stop:
                self.prove(stop)
            else:
                return

    def prove(self, doubt: Stop | NotLetIn) -> None:
        """Raise the reason to stop that all servers give when asked again, by separate clients and after a pause.
        Return, after another pause, if they give none or do not answer: then it is no time to stop.
        """
        if isinstance(doubt, TooManyDeadLetters | ContentStuck):
            raise doubt
        self._observer.start()
        log.warning("asking_again", error=type(doubt).__name__, detail=str(doubt))
        self._health.enter("waiting", f"asking again, for it may not be so: {doubt}", ready=False)
        self._watchdog.rest()
        self._stopping.wait(CONFIRM_SECONDS)
        try:
            self._ask(doubt)
            detail = "the servers do not confirm it"
        except Misconfigured as refused:
            if isinstance(doubt, NotLetIn):
                raise
            detail = str(refused)
        except (Unavailable, CommandFailed, SQLAlchemyError) as error:
            detail = str(error)
        self._backoff.wait(Unproven(f"{doubt} (asked again: {detail})"))

    def wait(self, stop: Stop) -> None:
        """Stay alive and unready, and repeat what an operator has to decide, until the reason is gone or the process
        is asked to stop. After `TooManyDeadLetters` only a restart says that the cause is fixed.
        """
        self._watchdog.rest()
        pause, told = PROBE_MIN, float("-inf")
        final = isinstance(stop, TooManyDeadLetters)
        note = "fix it, then restart this worker" if final else "decide; this worker then goes on by itself"
        while not self._stopping.is_set():
            self._health.enter("stopped", f"{type(stop).__name__}: {stop}", ready=False)
            if time.monotonic() - told >= REPEAT_SECONDS:
                log.critical("stopped", error=type(stop).__name__, detail=str(stop), note=note)
                told = time.monotonic()
            if self._stopping.wait(pause * self._random.uniform(0.8, 1.0)) or final:
                continue
            pause = min(2 * pause, PROBE_MAX)
            try:
                self._ask(stop)
                self._check()
            except Stop as still:
                if str(still) != str(stop):
                    stop, pause, told = still, PROBE_MIN, float("-inf")
            except (Unavailable, CommandFailed, Misconfigured, SQLAlchemyError) as error:
                log.warning("not_seen", detail=str(error)[:LOGGED_MAX])
            else:
                log.info("resumed", error=type(stop).__name__, note="the reason to stop is gone")
                return

    def _ask(self, doubt: Stop | NotLetIn) -> None:
        """Raise the deepest reason to stop that the servers give."""
        found = self._stands(doubt)
        if len(found) > 1:
            log.error("more_to_decide", also=[str(stop) for stop in found[1:LISTED_MAX]], count=len(found))
        for stop in found:
            raise stop
