"""Outages of the two servers: each logs one line when it begins and one when it ends, however often it is noticed."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .logs import log

DETAIL_MAX = 1_000
"""Characters kept of an error; a database error repeats whole statements."""


class Outage:
    """Whether a server answers. Several parts of a process may miss it; the outage ends when none does any more."""

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._turn = threading.Lock()
        self._missed_by: set[str] = set()
        self._began = 0.0
        self._since = ""

    @property
    def lasts(self) -> bool:
        """Whether any part of the process misses the server now."""
        return bool(self._missed_by)

    def missed(self, by: str, detail: str, *, for_seconds: float = 0.0) -> None:
        """Note that `by` has had no answer for `for_seconds`."""
        with self._turn:
            first = not self._missed_by
            self._missed_by.add(by)
            if not first:
                return
            self._began = self._clock() - for_seconds
            self._since = (datetime.now(UTC) - timedelta(seconds=for_seconds)).isoformat(timespec="seconds")
            log.warning(f"{self._server}_unavailable", since=self._since, by=by, detail=detail[:DETAIL_MAX])

    def answered(self, by: str) -> None:
        """Note that `by` got an answer."""
        if by not in self._missed_by:
            return
        with self._turn:
            self._missed_by.discard(by)
            if not self._missed_by:
                seconds = round(self._clock() - self._began, 1)
                log.warning(f"{self._server}_available", since=self._since, seconds=seconds)


KAFKA = Outage("kafka")
DATABASE = Outage("database")
