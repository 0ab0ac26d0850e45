"""A count of occurrences in the last minute."""

import time
from collections import deque
from collections.abc import Callable

SECONDS = 60.0


class Minute:
    """Counts occurrences; forgets those older than a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque()

    def count(self, more: int = 1) -> int:
        """Note `more` occurrences now; return the number in the last minute."""
        now = self._clock()
        self._times.extend([now] * more)
        while self._times and self._times[0] < now - SECONDS:
            self._times.popleft()
        return len(self._times)
