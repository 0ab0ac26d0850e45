"""The breaker: a destination that fails several times in a row is left alone for a while; then one call tries."""

import time
from collections.abc import Callable


class Breaker:
    """One destination, as one caller sees it."""

    def __init__(self, failures_max: int, rest_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures_max = failures_max
        self._rest_seconds = rest_seconds
        self._clock = clock
        self._failures = 0
        self._closed_at = 0.0
        """When one call may try."""
        self._tries = False

    @property
    def open(self) -> bool:
        """Whether calls are held back."""
        return self._failures >= self._failures_max

    def room(self, most: int) -> int:
        """Return how many calls may start now, at most `most`."""
        if not self.open:
            return most
        return min(most, 1) if not self._tries and self._clock() >= self._closed_at else 0

    def starts(self) -> None:
        """Note that a call starts."""
        self._tries = self.open

    def unasked(self) -> None:
        """Note that a call that started has not asked the destination after all."""
        self._tries = False

    def succeeded(self) -> bool:
        """Note an answer; return whether this ends a rest."""
        ended = self.open
        self._failures, self._tries = 0, False
        return ended

    def failed(self) -> bool:
        """Note a failure; return whether this begins a rest."""
        begins = self._failures + 1 == self._failures_max
        self._failures = min(self._failures + 1, self._failures_max)
        self._tries = False
        if self.open:
            self._closed_at = self._clock() + self._rest_seconds
        return begins

    def seconds(self) -> float:
        """Return how long it rests yet."""
        return max(0.0, self._closed_at - self._clock()) if self.open else 0.0
