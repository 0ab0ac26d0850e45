"""Finds the highest rate that a system bears."""

import math
from collections.abc import Callable

FACTOR = 2.0
PRECISION = 1.1
"""The most is known when the lowest rate that failed is at most this much higher: two runs differ by as much."""
RATE_MAX = 100_000


def most(bears: Callable[[int], bool], first: int) -> int:
    """Return the most that is borne, 0 if nothing is: up from `first` by a factor, then between what was borne and what
    was not.

    A rate that failed is tried once more before it counts: one stall of the machine may have decided.
    """

    def borne(rate: int) -> bool:
        return bears(rate) or bears(rate)

    best, rate = 0, first
    while rate <= RATE_MAX and borne(rate):
        best, rate = rate, round(rate * FACTOR)
    failed = rate
    while not best and failed > 1:
        lower = int(failed / FACTOR)
        if borne(lower):
            best = lower
        else:
            failed = lower
    while best and failed > max(best * PRECISION, best + 1):
        middle = round(math.sqrt(best * failed))
        if borne(middle):
            best = middle
        else:
            failed = middle
    return best
