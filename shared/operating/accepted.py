"""What was accepted: a decision about a lane explains what the audit finds from before it, and hides nothing.

After a restored backup the topics have events that this database never decided. Whoever decides about the lane accepts
that. The events stay lost to this service, so they stay in the audit, with the number of the decision.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

_DECISIONS = text("""
    SELECT id, CAST(extract(epoch FROM decided_at) AS float8) AS time, command, source, before, after FROM decision
    WHERE command = 'lanes resize' OR (command LIKE 'positions %' AND source LIKE 'lane-%') ORDER BY id
""")

SAME_TRANSACTION_SECONDS = 60.0
"""What `skip` counts as said it writes down shortly before the decision itself; with 50,000 rows it took a second."""


class Decision(NamedTuple):
    """A decision about a lane."""

    id: int
    time: float
    """In seconds since 1970, by the clock of the database."""
    command: str
    before: int | None
    """The position of the lane in the database."""
    after: int


class Accepted:
    """The decisions about lanes, in their order."""

    def __init__(self, connection: Connection) -> None:
        with connection.begin():
            rows: list[Any] = list(connection.execute(_DECISIONS))
        self._by_lane: dict[int, list[Decision]] = {}
        self._resized = max((row.time for row in rows if row.command == "lanes resize"), default=-math.inf)
        for row in rows:
            found = re.fullmatch(r"lane-(\d+)", row.source)
            if found and "position" in row.after:
                made = Decision(row.id, row.time, row.command, row.before.get("position"), row.after["position"])
                self._by_lane.setdefault(int(found[1]), []).append(made)

    def born_empty(self, lane: int) -> bool:
        """Whether nothing was ever claimed by `lane` before position 1, as far as decisions tell."""
        moved = any(made.after < (made.before or 0) for made in self._by_lane.get(lane, ()))
        return self._resized == -math.inf and not moved

    def reached(self, lane: int, position: float) -> float:
        """Where the positions of `lane` went on after `position`, of the last claim that is known: what a decision left
        out was claimed by a database that is gone, and is no gap in what this one knows.
        """
        for made in self._by_lane.get(lane, ()):
            if made.before is not None and made.before <= position + 1:
                position = max(position, made.after)
        return position

    def unknown(self, lane: int, decided: float) -> int | None:
        """The decision that accepted an event which nobody knows."""
        everywhere = [made for made_of in self._by_lane.values() for made in made_of]
        mine = self._by_lane.get(lane, ()) if decided > self._resized else everywhere
        return _first(made.id for made in mine if made.time >= decided)

    def never(self, lane: int, position: int, claimed: float) -> int | None:
        """The decision that counted events as said which are in no topic."""
        return _first(
            made.id
            for made in self._by_lane.get(lane, ())
            if made.command == "positions skip"
            and made.after == position
            and abs(made.time - claimed) < SAME_TRANSACTION_SECONDS
        )


def _first(numbers: Iterable[int]) -> int | None:
    return min(numbers, default=None)
