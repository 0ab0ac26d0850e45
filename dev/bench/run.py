"""What became of the orders of one run at a fixed rate."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

BEARABLE_SECONDS = 2.0
"""p99 from the moment when a POST is due until OrderConfirmed can be read."""
BEARABLE_SHARE = 99
KEEPS_PACE = 0.95
"""Of the orders that come in the second half, so many must be confirmed in it; the rest is how far one half may differ
from the other by chance."""


@dataclass(frozen=True)
class Run:
    """One run; all moments are of `time.monotonic`."""

    rate: int
    begin: float
    seconds: float
    due: Mapping[str, float]
    """When the POST of each accepted order was due, by order id."""
    confirmed: Mapping[str, float]
    """When OrderConfirmed could be read; a missing order was not yet confirmed."""
    refused: Counter[int] = field(default_factory=Counter)
    """Requests by the status that they were refused with."""
    unanswered: Collection[str] = ()
    """Idempotency-Keys of the requests that had no answer."""
    unsent: int = 0
    """Orders that were due and never sent: no connection became free, or the run was given up."""
    late: int = 0
    """Orders that were sent later than due, because no connection was free or the client was too slow. Their time
    counts from when they were due."""

    @property
    def times(self) -> list[float]:
        """How long each accepted order took, the shortest first; infinite if it is not confirmed."""
        return sorted(self.confirmed.get(order, math.inf) - due for order, due in self.due.items())

    def percentile(self, share: int) -> float:
        """Return the time within which `share` % of the orders were confirmed."""
        return percentile(self.times, share)

    @property
    def throughput(self) -> float:
        """Orders of this run confirmed within it, for each second."""
        return self._confirmed_within(self.begin, self.begin + self.seconds) / self.seconds

    @property
    def borne(self) -> bool:
        """Whether all were answered, in time, and the backlog did not grow."""
        if not self.due or self.refused or self.unanswered or self.unsent:
            return False
        return self.percentile(BEARABLE_SHARE) <= BEARABLE_SECONDS and not self.backlog_grows

    @property
    def backlog_grows(self) -> bool:
        """Whether fewer orders are confirmed than come. A run is too short for a p99 to show it: what exceeds the most
        by a tenth waits for a second after ten.
        """
        middle, end = self.begin + self.seconds / 2, self.begin + self.seconds
        came = sum(middle <= due < end for due in self.due.values())
        return self._confirmed_within(middle, end) < KEEPS_PACE * came

    def _confirmed_within(self, begin: float, end: float) -> int:
        return sum(begin <= self.confirmed.get(order, math.inf) < end for order in self.due)

    def __str__(self) -> str:
        told = [f"p50 {self.percentile(50):.2f} s", f"p99 {self.percentile(99):.2f} s"] if self.due else ["no order"]
        told += [f"{count} answered with {status}" for status, count in sorted(self.refused.items())]
        told += [f"{len(self.unanswered)} without an answer"] if self.unanswered else []
        told += [f"{self.unsent} not sent"] if self.unsent else []
        told += [f"{self.late} sent late"] if self.late else []
        told += ["the backlog grows"] if self.backlog_grows else []
        return ", ".join(told)


def percentile(times: list[float], share: int) -> float:
    """Return the value below which `share` % of the sorted `times` are."""
    return times[min(len(times) - 1, len(times) * share // 100)]
