"""Accepted findings: a decision explains the audit's findings that follow from it, and hides none.

After a restored backup the topics have events that this database never decided. A decision about the lane accepts
that. The events are lost to this service for good, so the audit still lists them, with the number of the decision.

Rewinding an input accepts that events about its records are published again. The id of such an event names its record,
which shows whether a rewind explains it. A decision about an input of a database that went back accepts the same for
the records that were parked then, and remembers where they are from. Rewinding a lane accepts the same for the rows
that wait in it, and the decision remembers these rows.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

_DECISIONS = text("""
    SELECT id, CAST(extract(epoch FROM decided_at) AS float8) AS time, command, source, before, after
        FROM exactly_once_decision
    WHERE command IN ('lanes resize', 'positions rewind') OR (command LIKE 'positions %' AND source LIKE 'lane-%')
        OR jsonb_exists(before, 'parked')
    ORDER BY id
""")

_CAUSED = re.compile(r".+?:(?P<source>.+-\d+)\.(?P<epoch>\d+)\.(?P<offset>\d+)\.[^.]+\.\d+")
"""The form of `dead_letters.cause_id`: the id of an event about a record."""

SAME_TRANSACTION_SECONDS = 60.0
"""`skip` logs the rows that it counts as published shortly before the decision itself; 50,000 rows took a second."""


class Decision(NamedTuple):
    """A decision about a lane."""

    id: int
    time: float
    """In seconds since 1970, by the database's clock."""
    command: str
    before: int | None
    """The position of the lane in the database."""
    after: int


class Rewind(NamedTuple):
    """A decision that takes an input back over records that were handled."""

    id: int
    time: float
    first: int
    end: int
    """The records from `first` up to `end`, not included, may have been handled before."""
    epoch: int | None
    """None for a decision of an older release."""


class Accepted:
    """The decisions that explain findings, in order."""

    def __init__(self, connection: Connection) -> None:
        with connection.begin():
            rows: list[Any] = list(connection.execute(_DECISIONS))
        self._by_lane: dict[int, list[Decision]] = {}
        self._resized = max((row.time for row in rows if row.command == "lanes resize"), default=-math.inf)
        self._rewinds: dict[str, list[Rewind]] = {}
        self._waited: dict[str, tuple[str, list[int]]] = {}
        """For each event that waited in a lane at a decision: its key, and the decisions that publish it again."""
        self._parked: dict[tuple[str, int, int], list[tuple[int, float]]] = {}
        """For each record that was parked at a decision: the decisions, and when they were made."""
        for row in rows:
            for epoch, offset in row.before.get("parked", ()):
                self._parked.setdefault((_source(row.source), epoch, offset), []).append((row.id, row.time))
            if rewind := _rewind(row):
                self._rewinds.setdefault(_source(row.source), []).append(rewind)
            found = re.fullmatch(r"lane-(\d+)", row.source)
            if found and "position" in row.after:
                made = Decision(row.id, row.time, row.command, row.before.get("position"), row.after["position"])
                self._by_lane.setdefault(int(found[1]), []).append(made)
                for event_id, key in row.after.get("may be said twice", ()):
                    self._waited.setdefault(event_id, (key, []))[1].append(row.id)

    def born_empty(self, lane: int) -> bool:
        """Whether `lane` never claimed anything before position 1, as far as decisions show."""
        moved = any(made.after < (made.before or 0) for made in self._by_lane.get(lane, ()))
        return self._resized == -math.inf and not moved

    def reached(self, lane: int, position: float) -> float:
        """Return where the positions of `lane` continued after `position`, its last known claim. Positions that a
        decision skipped were claimed by a lost database; they are no gap in this one.
        """
        for made in self._by_lane.get(lane, ()):
            if made.before is not None and made.before <= position + 1:
                position = max(position, made.after)
        return position

    def unknown(self, lane: int, decided: float) -> int | None:
        """The decision that accepted an unknown event."""
        everywhere = [made for made_of in self._by_lane.values() for made in made_of]
        mine = self._by_lane.get(lane, ()) if decided > self._resized else everywhere
        return _first(made.id for made in mine if made.time >= decided)

    def never(self, lane: int, position: int, claimed: float) -> int | None:
        """The decision that counted events in no topic as published."""
        return _first(
            made.id
            for made in self._by_lane.get(lane, ())
            if made.command == "positions skip"
            and made.after == position
            and abs(made.time - claimed) < SAME_TRANSACTION_SECONDS
        )

    @property
    def rewound(self) -> bool:
        """Whether any duplicate can be explained."""
        return bool(self._rewinds or self._waited or self._parked)

    def key(self, event_id: str) -> str | None:
        """The key of an event that waited in a lane at a decision."""
        return self._waited[event_id][0] if event_id in self._waited else None

    def again(self, event_id: str, nth: int, published_at: float) -> int | None:
        """The decision that explains why an event is published for the `nth` time (from 2 on), at `published_at` or
        later. Each rewind over its record, or of the lane in which it waited, explains one later duplicate.
        """
        explain = list(self._waited[event_id][1]) if event_id in self._waited else []
        if found := _CAUSED.fullmatch(event_id):
            offset, epoch = int(found["offset"]), int(found["epoch"])
            explain += [
                made.id
                for made in self._rewinds.get(found["source"], ())
                if made.first <= offset < made.end and made.epoch in (None, epoch) and made.time <= published_at
            ]
            explain += [
                number
                for number, time in self._parked.get((found["source"], epoch, offset), ())
                if time <= published_at
            ]
        explain.sort()
        return explain[nth - 2] if nth - 2 < len(explain) else None


def _source(written: str) -> str:
    """Write the input `topic[0]` as in ids: `topic-0`."""
    return re.sub(r"\[(\d+)\]$", r"-\1", written)


def _rewind(row: Any) -> Rewind | None:
    # One that raises the epoch explains none: later events have new ids. One of a lane concerns no record.
    if row.command != "positions rewind" or "H" not in row.after or "epoch" in row.after:
        return None
    end = max(row.before.get("H") or 0, row.before.get("committed") or 0)
    return Rewind(row.id, row.time, row.after["H"], end, row.before.get("epoch"))


def _first(numbers: Iterable[int]) -> int | None:
    return min(numbers, default=None)
