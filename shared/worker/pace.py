"""Batches that form by themselves: a pause before the next cycle, while cycles cost much and bring little.

A cycle has a cost that does not depend on its records: two commits, and the round trips around them. A worker that is
hardly ever idle, and yet finds only a few records each time, pays it again and again. If it pauses for as long as two
cycles take, the next one has about three times the records, and the machine is free meanwhile. Cycles take longer on a
machine that is full, so the pauses grow with the load.
"""

CYCLES = 2.0
"""How many cycles a pause takes. At 50 orders per second on two full cores an order cost 31 ms of CPU with two, 37 with
one, and took 1.2 instead of 1.3 s; at 35 it took as long (one run of 20 s each).
"""

BUSY = 0.5
"""The share of its time without waiting for records above which a worker pauses. Below, it has time enough, and a pause
would only be a delay.
"""

FEW = 0.25
"""A batch with less than this of the records allowed is small. The cost of a larger one is in its records: they would
not get cheaper.
"""

WINDOW_SECONDS = 0.5
"""Over which the share is taken: a few dozen cycles, so that one slow cycle of an idle worker does not count."""


class Pace:
    """Decides how long to pause after each cycle: never longer than `seconds_max`."""

    def __init__(self, seconds_max: float, batch_records: int) -> None:
        self._seconds_max = seconds_max
        self._few = FEW * batch_records
        self._busy = 0.0

    def after(self, seconds: float, waited: float, records: int, *, more: bool = False) -> float:
        """Note a cycle that took `seconds`, `waited` of them for records, and had `records` to handle or to publish;
        return the pause in seconds. No pause if there are `more` records to go on with.
        """
        if seconds > 0:  # the pauses themselves do not count: without them, the worker would be busy
            self._busy += (1 - waited / seconds - self._busy) * seconds / (seconds + WINDOW_SECONDS)
        small = 0 < records < self._few and not more
        return min(CYCLES * (seconds - waited), self._seconds_max) if small and self._busy > BUSY else 0.0
