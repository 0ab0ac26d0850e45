"""What is seen of one service: twice a second what flows, now and then what is wrong.

Kafka and PostgreSQL are asked on threads of their own, by clients of their own; each shows what it knows while the
other does not answer.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from ..calls import queue
from ..operations import calls, dead_letters, maintenance, schedule, status, survey
from ..operations.dead_letters import Alike
from ..operations.group import Group, Member, Span
from ..operations.maintenance import Holder
from ..operations.status import Status
from ..postgres import backlog, parked, pauses, positions
from ..postgres.parked import ParkedKey
from ..postgres.pauses import Pause
from ..protocol.ports import Input, Position
from .estate import Known
from .looks import Look, Watch
from .rates import Rates

FLOW_SECONDS = 0.5
"""Between two looks at what flows, however many watch: two requests to Kafka and five to PostgreSQL."""
PROBLEMS_SECONDS = 8.0
"""Between two looks at what is wrong: they take seconds, and make clients of their own."""
MEMBERS_EVERY = 2
"""The members of the group are asked for with each second look."""
TOPICS_EVERY = 40
"""Partitions are hardly ever added."""
STALE_SECONDS = 5.0
"""What is older is not known any more."""
KEYS_MAX = 50
"""Parked keys, scheduled events and calls that are looked at for problems."""
LOST_SECONDS = 60.0
"""How long a slot that was lost is shown: after that there are fewer workers."""
CHANGES_MAX = 12
"""Slots that were lost or taken, remembered for the page."""


class Topics(NamedTuple):
    """What Kafka has."""

    spans: dict[Input, Span]
    """Of all that the service consumes and publishes on."""
    members: list[Member]


class Tables(NamedTuple):
    """What PostgreSQL has."""

    positions: dict[Input, Position]
    lanes: list[backlog.Lane]
    holders: list[Holder]
    paused: Mapping[str, Pause] = {}
    """By topic."""


class Waits(NamedTuple):
    """What waits in PostgreSQL for somebody, or for its moment."""

    dead_letters: list[Alike]
    keys: list[ParkedKey]
    schedule: list[dict[str, object]]
    calls: list[queue.Waiting]
    stuck_calls: list[dict[str, object]]


@dataclass(frozen=True)
class Change:
    """A slot that was lost, or taken."""

    at: datetime
    slot: int
    what: str


@dataclass
class Slots:
    """Who held the slots in the last look, and what has changed since."""

    now: dict[int, tuple[int, str | None]] = field(default_factory=dict)
    lost: dict[int, datetime] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=lambda: deque(maxlen=CHANGES_MAX))
    begun: bool = False

    def note(self, holders: list[Holder]) -> None:
        """Compare with the last look."""
        at = datetime.now(UTC)
        found = {one.slot: (one.pid, one.host) for one in holders}
        self.lost = {slot: since for slot, since in self.lost.items() if (at - since).total_seconds() < LOST_SECONDS}
        for slot in sorted(self.now.keys() - found.keys()):
            self.lost[slot] = at
            self.changes.append(Change(at, slot, "lost: the worker has ended, or its session has"))
        for slot in sorted(found):
            if self.begun and self.now.get(slot) != found[slot]:
                since = self.lost.pop(slot, None)
                after = f", {(at - since).total_seconds():.1f} s after it was lost" if since else ""
                again = "taken by the next session" if slot in self.now else "taken"
                self.changes.append(Change(at, slot, f"{again}{after}"))
        self.now, self.begun = found, True


class Sight:
    """All that is seen of one service."""

    def __init__(self, known: Known, watch: Watch) -> None:
        self.known = known
        self.slots = Slots()
        self.published, self.handled = Rates(), Rates()
        self._group: Group | None = None
        self._looked = 0
        self._partitions: dict[str, int] = {}
        self._members: list[Member] = []
        name = known.name
        self.topics: Look[Topics] = Look(
            f"{name}: Kafka", self._see_topics, every=FLOW_SECONDS, watch=watch, rest=self._leave
        )
        self.tables: Look[Tables] = Look(
            f"{name}: PostgreSQL",
            self._see_tables,
            every=FLOW_SECONDS,
            watch=watch,
            rest=known.watching.dispose,
        )
        self.status: Look[Status] = Look(
            f"{name}: positions", lambda: status.look(known.reading), every=PROBLEMS_SECONDS, watch=watch
        )
        self.waits: Look[Waits] = Look(f"{name}: waits", self._see_waits, every=PROBLEMS_SECONDS / 4, watch=watch)

    @property
    def looks(self) -> list[Look[object]]:
        """All questions about it."""
        return [self.topics, self.tables, self.status, self.waits]  # type: ignore[list-item]

    def _see_topics(self) -> Topics:
        service = self.known.service
        if self._group is None:
            self._group, self._looked = Group(self.known.settings, service), 0
        group = self._group
        group.serve_log()
        if self._looked % TOPICS_EVERY == 0:
            names = {*service.consumed_topics, *service.published_topics}
            self._partitions = {name: found.partitions for name, found in group.topics(names).items()}
        if self._looked % MEMBERS_EVERY == 0:
            self._members = group.shares()
        self._looked += 1
        spans = group.spans([Input(name, n) for name, count in self._partitions.items() for n in range(count)])
        self.published.note({source: span.high for source, span in spans.items()})
        return Topics(spans, self._members)

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.__exit__(None, None, None)

    def _see_tables(self) -> Tables:
        with self.known.watching.connect() as connection, connection.begin():
            rows = positions.read(connection, survey.known_inputs(connection, self.known.service))
            lanes = backlog.lanes(connection)
            holders = maintenance.holders(connection)
            paused = pauses.look(connection)
        self.handled.note({source: row.next_offset for source, row in rows.items()})
        self.slots.note(holders)
        return Tables(rows, lanes, holders, paused)

    def _see_waits(self) -> Waits:
        engine = self.known.reading.engine
        with engine.connect() as connection, connection.begin():
            return Waits(
                dead_letters.alike(connection),
                parked.keys(connection, most=KEYS_MAX + 1),
                schedule.listed(connection, KEYS_MAX + 1),
                list(queue.waiting(connection)) if self.known.calls else [],
                calls.listed(connection, KEYS_MAX + 1, stuck=True) if self.known.calls else [],
            )
