"""The audit's first side: the database's claims, and since when they are known without a gap."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ..protocol.ports import Committed
from .accepted import Accepted
from .ledger import Batch, Ledger

LANES_MAX = 1_000
"""The maximum of PARTITIONS; a removed lane may have left claims behind."""

PAGE_ROWS = 1_000
PAGE_EVENTS = 20_000
"""Event ids in one page: 2 MB. A single claim may have more."""

# The last row of each lane by the primary key, read with the lane's claim, which it may belong to, in one statement.
_LOOK = text("""
    SELECT number, lane.position, CAST(lane.claim_id AS text), last.id, last.position, CAST(last.claim_id AS text)
    FROM generate_series(0, :lanes - 1) AS number
    LEFT JOIN exactly_once_lane AS lane ON lane.lane = number
    LEFT JOIN LATERAL (
        SELECT id, position, claim_id FROM exactly_once_claimed AS entry WHERE entry.lane = number
            ORDER BY id DESC LIMIT 1
    ) AS last ON true
    WHERE lane.lane IS NOT NULL OR last.id IS NOT NULL
""")

_PAGE = text("""
    SELECT id, position, CAST(claim_id AS text) AS claim_id, CAST(extract(epoch FROM claimed_at) AS float8) AS time,
           topic, event_ids
    FROM (
        SELECT *, sum(events) OVER (ORDER BY id) - events AS before
        FROM (SELECT * FROM exactly_once_claimed WHERE lane = :lane AND id > :after ORDER BY id LIMIT :rows) AS next
    ) AS page
    WHERE before < :events ORDER BY id
""")

_EVENTS = text("SELECT event_ids FROM exactly_once_claimed WHERE lane = :lane AND id = :id")
_EVENT = text("SELECT event_ids[CAST(:nth AS int)] FROM exactly_once_claimed WHERE lane = :lane AND id = :id")


class Lane(NamedTuple):
    """A lane at one moment: its current claim, and the last row of `exactly_once_claimed`."""

    number: int
    position: int | None
    """None if the lane was removed."""
    claim_id: str
    last_id: int
    last_position: int
    last_claim_id: str

    def proved(self, published: Committed | None) -> bool:
        """Whether the published position, read after this, proves that the current claim is published."""
        if self.position is None:
            return True  # a lane is removed only without an open claim
        return published is not None and (
            published.offset > self.position or published == (self.position, self.claim_id)
        )


@dataclass
class Known:
    """The claims read."""

    since: dict[int, float] = field(default_factory=dict)
    """From when on every claim of a lane is known, in seconds since 1970 by the database's clock."""
    claims: int = 0
    events: int = 0
    first: float = math.inf
    """When the first of them was claimed."""

    def since_when(self, lane: int) -> float:
        """From when on an event of `lane` that is in no claim is of unknown origin."""
        return self.since.get(lane, math.inf)


def look(connection: Connection) -> list[Lane]:
    """Read all lanes, removed ones included."""
    with connection.begin():
        rows: list[Any] = list(connection.execute(_LOOK, {"lanes": LANES_MAX}))
    return [
        Lane(number, position, claim or "", last_id or 0, last_position or 0, last_claim or "")
        for number, position, claim, last_id, last_position, last_claim in rows
    ]


def read(
    connection: Connection, proved: Mapping[Lane, bool], accepted: Accepted, ledger: Ledger, tick: Callable[[int], None]
) -> Known:
    """Enter all claims into `ledger`, page by page, each in a short transaction. `proved` maps the lanes to whether
    their current claim is published.
    """
    known = Known()
    for lane, is_published in proved.items():
        position = 0.0 if accepted.born_empty(lane.number) else -math.inf
        since = -math.inf if position == 0 else math.inf
        for row in _rows(connection, lane.number, tick):
            # A missing number was claimed by an older release, or by a database that was lost. A repeated one was
            # assigned again after a decision.
            if row.position > accepted.reached(lane.number, position) + 1:
                since = row.time
            position = row.position
            of_last = (row.position, row.claim_id or "") == (lane.last_position, lane.last_claim_id)
            sure = row.id <= lane.last_id and (not of_last or is_published or row.position < (lane.position or 0))
            ledger.claim(Batch(row.id, lane.number, row.position, row.topic, row.time, sure), row.event_ids)
            known.claims += 1
            known.events += len(row.event_ids)
            known.first = min(known.first, row.time)
        known.since[lane.number] = math.inf if (lane.position or 0) > accepted.reached(lane.number, position) else since
    # A key of a removed lane is in another lane now, which does not know what the old one had pruned.
    gone = max((known.since[lane.number] for lane in proved if lane.position is None), default=-math.inf)
    known.since = {number: max(since, gone) for number, since in known.since.items()}
    return known


def _rows(connection: Connection, lane: int, tick: Callable[[int], None]) -> Iterator[Any]:
    parameters = {"lane": lane, "after": 0, "rows": PAGE_ROWS, "events": PAGE_EVENTS}
    while True:
        with connection.begin():
            page: list[Any] = list(connection.execute(_PAGE, parameters))
        if not page:
            return
        yield from page
        parameters["after"] = page[-1].id
        tick(sum(len(row.event_ids) for row in page))


def event_id(connection: Connection, lane: int, batch: int, index: int) -> str | None:
    """Return the id of a claimed event; None if it was deleted meanwhile."""
    with connection.begin():
        found = connection.execute(_EVENT, {"nth": index + 1, "lane": lane, "id": batch}).scalar_one_or_none()
    return None if found is None else str(found)


def event_ids(connection: Connection, lane: int, batch: int) -> list[str]:
    """Return the ids of a claim's events; none if it was deleted meanwhile."""
    with connection.begin():
        return connection.execute(_EVENTS, {"lane": lane, "id": batch}).scalar_one_or_none() or []
