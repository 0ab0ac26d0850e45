"""Every position as the two systems have it, side by side, and what that means, for an operator.

Workers may run meanwhile. What then looks like a disagreement counts only if it stands still.
"""

import time
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ..errors import KafkaWentBack, Stop
from ..kafka.held_back import Held, ask
from ..postgres import outbox, positions
from ..protocol import verdicts
from ..protocol.ports import Claim, Committed, Input, Position
from ..protocol.verdicts import Comparison, compare_input, compare_lane
from ..service import Service
from .group import Group, Span
from .maintenance import Context

STANDING_SECONDS = 2.5
"""Transactions of healthy workers take some milliseconds; records without an effect move the next offset with the next
report of a worker, a second later (`shared.worker.turns`).
"""

LOOK_AGAIN_SECONDS = 0.05

ROUNDS_MAX = 5
"""How often a disagreement is read again; a worker moves a position every few milliseconds."""

_INPUTS = text("SELECT topic, partition FROM exactly_once_position WHERE topic = ANY(:topics)")

_LANES = text("SELECT lane FROM exactly_once_lane")

# The rows of a claim are deleted together with it, so subtraction gives the rest of the lane.
_WAITING = text("""
    SELECT lane.lane, (SELECT count(*) FROM exactly_once_outbox AS outbox
        WHERE outbox.lane = lane.lane), cardinality(lane.row_ids),
           extract(epoch FROM clock_timestamp() - (SELECT min(decided_at) FROM exactly_once_outbox AS outbox
               WHERE outbox.lane = lane.lane)),
           extract(epoch FROM clock_timestamp() - (
               SELECT min(decided_at) FROM exactly_once_outbox AS outbox LEFT
                   JOIN unnest(lane.row_ids) AS claimed (id) USING (id)
               WHERE outbox.lane = lane.lane AND claimed.id IS NULL)),
           (SELECT count(*) FROM exactly_once_schedule AS scheduled
               WHERE scheduled.lane = lane.lane AND scheduled.due <= statement_timestamp()),
           extract(epoch FROM clock_timestamp() - (SELECT min(due) FROM exactly_once_schedule AS scheduled
               WHERE scheduled.lane = lane.lane AND scheduled.due <= statement_timestamp()))
    FROM exactly_once_lane AS lane WHERE lane.lane = ANY(:lanes)
""")


class InputState(NamedTuple):
    """An input as both systems have it."""

    source: Input
    position: Position | None
    committed: Committed | None
    span: Span | None

    @property
    def lag(self) -> int | None:
        """How many offsets are still to be handled, including those held back: the value of the metric
        `exactly_once_consumer_lag_records`. Control markers have offsets too, and the next offset passes them.
        """
        if self.span is None:
            return None
        return self.span.high - (self.position.next_offset if self.position else self.span.low)

    @property
    def beyond_the_end(self) -> bool:
        """Whether the topic has lost records that were handled."""
        return self.position is not None and self.span is not None and self.position.next_offset > self.span.high

    def disagreement(self, service: str) -> Stop | None:
        """What a worker would stop for."""
        try:
            compare_input(service, self.source, self.committed, self.position)
        except Stop as stop:
            return stop
        if self.position is None or self.span is None:
            return None
        try:
            verdicts.compare_reach(service, self.source, self.position.next_offset, self.span.low, self.span.high)
        except KafkaWentBack as stop:
            stop.held = (self.source, self.position)
            return stop
        except Stop as stop:
            return stop
        return None

    def words(self) -> str:
        """Describe what it means if there is no disagreement."""
        if self.span is None:
            return "the topic does not exist"
        return Comparison.FIRST.value if self.position is None else Comparison.AGREED.value


class LaneState(NamedTuple):
    """A lane as both systems have it."""

    lane: int
    published: Committed | None
    claim: Claim | None

    def disagreement(self, service: str) -> Stop | None:
        """What a worker would stop for. Unless no worker runs, the published position must be read after the claim."""
        try:
            compare_lane(service, self.lane, self.published, self.claim, published_read_last=True)
        except Stop as stop:
            return stop
        return None

    @property
    def is_published(self) -> bool:
        """Whether Kafka has the rows of the claim."""
        return self.claim is not None and self.published == (self.claim.position, self.claim.claim_id)

    def words(self) -> str:
        """Describe what it means if there is no disagreement."""
        if self.published is None:
            return Comparison.FIRST.value
        if self.claim is not None and not self.claim.claim_id:
            return f"{Comparison.AGREED.value}; nothing was claimed yet"
        return f"{Comparison.AGREED.value}; the claim is {'published' if self.is_published else 'being published'}"


class Waiting(NamedTuple):
    """The backlog of a lane."""

    rows: int
    oldest_seconds: float | None


def inputs(connection: Connection, group: Group, service: Service) -> list[InputState]:
    """Read the inputs of a service: the existing partitions, and those that the database knows."""
    topics = group.topics(service.consumed_topics)
    with connection.begin():
        known = known_inputs(connection, service)
    known |= {Input(name, n) for name, topic in topics.items() for n in range(topic.partitions)}
    return see_inputs(connection, group, known)


def known_inputs(connection: Connection, service: Service) -> set[Input]:
    """Return the inputs that the database knows."""
    return {Input(*row) for row in connection.execute(_INPUTS, {"topics": list(service.consumed_topics)})}


def see_inputs(connection: Connection, group: Group, sources: Collection[Input]) -> list[InputState]:
    """Read some inputs. Kafka is read first: the next offset only grows, so one that is too high really is."""
    committed = group.committed(sources, ())
    with connection.begin():
        rows = positions.read(connection, sources)
    spans = group.spans(sources)
    return [InputState(i, rows.get(i), committed.get(i), spans.get(i)) for i in sorted(sources)]


def waiting_inputs(connection: Connection, states: Iterable[InputState]) -> set[Input]:
    """Find the inputs whose next offset stays before a readable record for a while. Returns as soon as all have
    moved.
    """
    still = {
        state.source: state.position
        for state in states
        if state.position is not None and state.span is not None and state.position.next_offset < state.span.stable
    }
    deadline = time.monotonic() + STANDING_SECONDS
    while still and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_SECONDS)
        with connection.begin():
            rows = positions.read(connection, still)
        still = {source: position for source, position in still.items() if rows.get(source) == position}
    return set(still)


def held_back(context: Context, group: Group, states: Iterable[InputState]) -> dict[Input, Held]:
    """Find the inputs in which the same transaction was open in two reads, and its owner."""
    open_at = {s.source: s.span.stable for s in states if s.span is not None and s.span.stable < s.span.high}
    if not open_at:
        return {}
    time.sleep(STANDING_SECONDS)
    spans = group.spans(open_at)
    found = {}
    for source, offset in open_at.items():
        if source in spans and spans[source].stable == offset < spans[source].high:
            found[source] = Held(source, offset)
    ask(context.settings, context.service.name, found.values())
    return found


def lanes(connection: Connection, group: Group, service: Service) -> list[LaneState]:
    """Read all lanes of a service: the topic's and the database's."""
    topic = group.topics([service.lane_topic]).get(service.lane_topic)
    with connection.begin():
        known = {int(lane) for (lane,) in connection.execute(_LANES)}
    known |= set(range(topic.partitions if topic else 0))
    return see_lanes(connection, group, known, service)


def see_lanes(connection: Connection, group: Group, numbers: Collection[int], service: Service) -> list[LaneState]:
    """Read some lanes; those that seem to disagree are read again until two readings agree."""
    found: dict[int, LaneState] = {}
    doubtful = set(numbers)
    for _ in range(ROUNDS_MAX):
        if not doubtful:
            break
        with connection.begin():
            claims = outbox.read_claims(connection, doubtful)
        published = group.committed((), doubtful)
        for lane in sorted(doubtful):
            state = LaneState(lane, published.get(lane), claims.get(lane))
            if state == found.get(lane) or state.disagreement(service.name) is None:
                doubtful.discard(lane)
            found[lane] = state
    return [found[lane] for lane in sorted(found)]


def waiting(connection: Connection, states: Iterable[LaneState]) -> dict[int, Waiting]:
    """Return the number of unpublished rows in each lane, and the age of the oldest; an event that was scheduled and is
    due is one of them.
    """
    by_lane = {state.lane: state for state in states}
    with connection.begin():
        rows: list[Any] = list(connection.execute(_WAITING, {"lanes": sorted(by_lane)}))
    found = {lane: Waiting(0, None) for lane in by_lane}
    for lane, count, claimed, oldest, oldest_unclaimed, due, late in rows:
        published = by_lane[lane].is_published
        ages = [float(age) for age in (oldest_unclaimed if published else oldest, late) if age is not None]
        found[lane] = Waiting(count - (claimed if published else 0) + due, max(ages, default=None))
    return found
