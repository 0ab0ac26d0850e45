"""Rate limits: a token bucket per caller, full at the start and refilled at the rate."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from prometheus_client import Counter

from .problems import Problem

LIMITED = Counter("exactly_once_http_requests_limited_total", "Requests refused because their caller asked too often")

BURST_SECONDS = 2.0
"""A caller's maximum burst, in seconds of its rate."""

CALLERS_MAX = 10_000
"""Buckets that are kept. The least recently used one is dropped first; it is almost surely full again."""


class Rate:
    """Limits each caller's requests per second, in this process. Used only on the event loop."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_second` of 0 disables the limit."""
        self._per_second = per_second
        self._most = max(1.0, per_second * BURST_SECONDS)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count a request. Raises `Problem` 429, which says when to retry."""
        if not self._per_second:
            return
        now = self._clock()
        left, seen = self._buckets.pop(caller, (self._most, now))
        left = min(self._most, left + (now - seen) * self._per_second)
        allowed = left >= 1
        self._buckets[caller] = (left - allowed, now)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
        if not allowed:
            LIMITED.inc()
            wait = math.ceil((1 - left) / self._per_second)
            detail = f"more than {self._per_second:g} requests per second"
            raise Problem(429, detail, kind="too-many-requests", retry_seconds=wait)
