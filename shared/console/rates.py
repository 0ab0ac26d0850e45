"""Rates from numbers that only grow, such as offsets: from their differences over some seconds."""

import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping

SECONDS = 5.0
"""What a rate is taken over: shorter ones jump with each batch."""
SECONDS_MIN = 0.9
"""Below this a rate says nothing."""
SAMPLES_MAX = 40
"""More than fit into `SECONDS`."""


class Rates:
    """The last values of some counters."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, Mapping[Hashable, int]]] = deque(maxlen=SAMPLES_MAX)

    def note(self, values: Mapping[Hashable, int]) -> None:
        """Note the values of now."""
        now = self._clock()
        # After a pause, the older ones would only blur the rate.
        if self._samples and now - self._samples[-1][0] > SECONDS:
            self._samples.clear()
        self._samples.append((now, values))
        while len(self._samples) > 2 and now - self._samples[1][0] >= SECONDS:
            self._samples.popleft()

    def per_second(self, counters: Collection[Hashable]) -> float | None:
        """Return the sum of the rates of `counters`; None if one is not known, or not for long enough."""
        if not counters or len(self._samples) < 2:
            return None
        (since, before), (until, after) = self._samples[0], self._samples[-1]
        if until - since < SECONDS_MIN or not all(one in before and one in after for one in counters):
            return None
        # A topic that was created again begins anew: that is no negative rate.
        return max(sum(after[one] - before[one] for one in counters) / (until - since), 0.0)
