"""The outbox backlog, measured cheaply: the API stops accepting work that no worker publishes."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from ..telemetry.gauges import Known

ROWS = Known(
    "exactly_once_outbox_rows_at_most",
    "Upper bound of the events that wait to be published; absent while it is not known",
)
OLDEST = Known(
    "exactly_once_outbox_oldest_seconds",
    "Age of the oldest event that waits to be published; 0: none waits; absent while it is not known",
)
LANE_ROWS = Known(
    "exactly_once_outbox_lane_rows_at_most",
    "The same of one lane that the worker owns, or of each in which some wait if it owns none",
    ("lane",),
)
LANE_OLDEST = Known(
    "exactly_once_outbox_lane_oldest_seconds",
    "The age of the oldest event that waits in one of these lanes",
    ("lane",),
)

_CHECK_SECONDS = 1.0


class Lane(NamedTuple):
    """What waits in a lane."""

    lane: int
    first: int | None
    """The id of its first row; None: nothing waits."""
    last: int | None
    oldest_seconds: float

    @property
    def rows_at_most(self) -> int:
        """The number of ids from the first row to the last, which other lanes share."""
        return 0 if self.first is None or self.last is None else self.last - self.first + 1


class Waiting(NamedTuple):
    """The outbox backlog."""

    rows_at_most: int
    oldest_seconds: float
    lanes: Sequence[Lane] = ()


# The first and the last row of each lane, by the primary key. Ids are unique, so no more rows wait than there are ids
# from the first to the last.
_LOOK = text("""
    SELECT lane.lane, first.id, last.id, extract(epoch FROM clock_timestamp() - first.decided_at)
    FROM exactly_once_lane AS lane
    LEFT JOIN LATERAL (SELECT id, decided_at FROM exactly_once_outbox AS outbox WHERE outbox.lane = lane.lane
        ORDER BY id LIMIT 1) AS first ON TRUE
    LEFT JOIN LATERAL (SELECT id FROM exactly_once_outbox AS outbox WHERE outbox.lane = lane.lane
        ORDER BY id DESC LIMIT 1) AS last ON TRUE
    ORDER BY lane.lane
""")

_COUNT = text("SELECT count(*) FROM (SELECT FROM exactly_once_outbox LIMIT :most) AS waiting")


def lanes(connection: Connection) -> list[Lane]:
    """Measure what waits in each lane, with two index look-ups for each."""
    return [Lane(lane, first, last, max(float(age or 0), 0.0)) for lane, first, last, age in connection.execute(_LOOK)]


def waits(found: Sequence[Lane]) -> Waiting:
    """Sum up what waits in all lanes."""
    firsts, lasts = [lane.first for lane in found if lane.first], [lane.last for lane in found if lane.last]
    return Waiting(
        max(lasts) - min(firsts) + 1 if firsts and lasts else 0,
        max((lane.oldest_seconds for lane in found), default=0.0),
        found,
    )


def look(connection: Connection) -> Waiting:
    """Measure the backlog."""
    waiting = waits(lanes(connection))
    ROWS.set(waiting.rows_at_most)
    OLDEST.set(waiting.oldest_seconds)
    return waiting


def show_lanes(found: Collection[Lane], owned: Collection[int]) -> None:
    """Show what waits in the lanes of a worker; of one that owns none, in all in which something does."""
    known = {lane.lane: lane for lane in found}
    shown = (
        {number: known.get(number, Lane(number, None, None, 0.0)) for number in owned}
        if owned
        else {number: lane for number, lane in known.items() if lane.first is not None}
    )
    LANE_ROWS.show({(str(number),): float(lane.rows_at_most) for number, lane in shown.items()})
    LANE_OLDEST.show({(str(number),): lane.oldest_seconds for number, lane in shown.items()})


class Backlog:
    """Whether the backlog is too large; one of the requests that ask checks it, at most once a second."""

    def __init__(self, rows_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows_max = rows_max
        self._clock = clock
        self._looking = threading.Lock()
        self._next = 0.0
        self._full = False

    def full(self, connection: Connection) -> bool:
        """Return whether more events wait than are allowed."""
        if self._clock() >= self._next and self._looking.acquire(blocking=False):
            try:
                # One event that is stuck while others pass exceeds the bound too: only then is it worth counting.
                exceeded = look(connection).rows_at_most > self._rows_max
                self._full = exceeded and self._count(connection) > self._rows_max
                self._next = self._clock() + _CHECK_SECONDS
            finally:
                self._looking.release()
        return self._full

    def _count(self, connection: Connection) -> int:
        return int(connection.execute(_COUNT, {"most": self._rows_max + 1}).scalar_one())
