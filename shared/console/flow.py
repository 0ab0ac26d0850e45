"""What flows through a service, as the page shows it. What is not known is `None` here, and "unknown" there."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..operations.output import age
from ..postgres import backlog
from ..postgres.pauses import Pause
from ..protocol.ports import Input
from .sight import STALE_SECONDS, Change, Sight, Tables, Topics

State = Literal["ok", "warn", "bad", "unknown"]

PARTITIONS_SHOWN = 16
"""Of more, the page shows those that lag most."""
WAITING_SECONDS = 10.0
"""An event that waits longer to be published waits for something."""
SILENT_SECONDS = 4.0
"""A server that takes longer to answer does not answer."""


class Part(NamedTuple):
    """One partition of a topic that a service consumes."""

    number: int
    lag: int | None
    owner: str | None


class Consumed(NamedTuple):
    """A topic that a service consumes."""

    topic: str
    lag: int | None
    per_second: float | None
    parts: list[Part]
    left_out: int
    pause: Pause | None = None


class LaneRow(NamedTuple):
    """A lane."""

    lane: int
    owner: str | None
    rows_at_most: int | None
    oldest_seconds: float | None


class Worker(NamedTuple):
    """Who holds a slot, or did until just now, or is still a member of the group."""

    slot: str
    state: State
    words: str
    host: str | None
    seconds: float | None
    """Since its session began: its start, or its last recovery that needed another one."""
    inputs: list[str]
    """By topic: `order.events 0 2`."""
    lanes: str


@dataclass(frozen=True)
class Flow:
    """What flows through one service."""

    name: str
    state: State
    words: str
    published_per_second: float | None = None
    handled_per_second: float | None = None
    lag: int | None = None
    rows_at_most: int | None = None
    oldest_seconds: float | None = None
    consumed: list[Consumed] = field(default_factory=list)
    lanes: list[LaneRow] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    workers_known: bool = False
    changes: list[Change] = field(default_factory=list)
    topics_per_second: dict[str, float | None] = field(default_factory=dict)

    def lag_of(self, topic: str) -> int | None:
        """The lag of a topic that it consumes."""
        return next((found.lag for found in self.consumed if found.topic == topic), None)

    def is_paused(self, topic: str) -> bool:
        """Whether an operator has paused a topic that it consumes."""
        return any(found.pause is not None for found in self.consumed if found.topic == topic)


def of(sight: Sight) -> Flow:
    """Put together what is known of a service now."""
    service = sight.known.service
    topics, tables = sight.topics.known(STALE_SECONDS), sight.tables.known(STALE_SECONDS)
    consumed = [_consumed(sight, name, topics, tables) for name in service.consumed_topics]
    lags = [found.lag for found in consumed]
    waits = backlog.waits(tables.lanes) if tables is not None else None
    workers = _workers(sight, topics, tables)
    flow = Flow(
        sight.known.name,
        "unknown",
        "",
        published_per_second=sight.published.per_second(_inputs(topics, service.published_topics)) if topics else None,
        handled_per_second=sight.handled.per_second(list(tables.positions)) if tables else None,
        lag=None if not lags or None in lags else sum(lag for lag in lags if lag is not None),
        rows_at_most=waits.rows_at_most if waits else None,
        oldest_seconds=waits.oldest_seconds if waits else None,
        consumed=consumed,
        lanes=_lanes(topics, tables),
        workers=workers,
        workers_known=tables is not None,
        changes=list(reversed(sight.slots.changes)),
        topics_per_second={
            name: sight.published.per_second(_inputs(topics, [name])) if topics else None
            for name in {*service.published_topics, *service.consumed_topics}
        },
    )
    state, words = _state(sight, flow)
    return Flow(**{**vars(flow), "state": state, "words": words})


def _state(sight: Sight, flow: Flow) -> tuple[State, str]:
    """Return the state of a service, and the words for it."""
    for look, server in ((sight.tables, "PostgreSQL"), (sight.topics, "Kafka")):
        if look.failure or look.silent_seconds > SILENT_SECONDS:
            return "bad", f"{server} does not answer"
    if not flow.workers_known:
        return "unknown", "not seen yet"
    up = sum(worker.state == "ok" for worker in flow.workers)
    if not up and not any(worker.state == "warn" for worker in flow.workers):
        return "bad", "no worker"
    words = f"{up} worker{'' if up == 1 else 's'}"
    if not up:
        return "warn", "recovers"
    late = (flow.oldest_seconds or 0.0) > WAITING_SECONDS
    return ("warn", f"{words}, events wait") if late else ("ok", words)


def _inputs(topics: Topics, names: Iterable[str]) -> list[Input]:
    wanted = set(names)
    return [source for source in topics.spans if source.topic in wanted]


def _consumed(sight: Sight, name: str, topics: Topics | None, tables: Tables | None) -> Consumed:
    sources = sorted(_inputs(topics, [name])) if topics else []
    owners = _owners(topics)
    parts = []
    for source in sources:
        lag = None
        if topics and tables:
            row = tables.positions.get(source)
            span = topics.spans[source]
            # Both are read side by side, so a busy worker may seem to be a little ahead.
            lag = max(span.high - (row.next_offset if row else span.low), 0)
        parts.append(Part(source.partition, lag, owners.get(source)))
    lags = [part.lag for part in parts]
    shown = sorted(sorted(parts, key=lambda part: -(part.lag or 0))[:PARTITIONS_SHOWN])
    handled = [source for source in tables.positions if source.topic == name] if tables else []
    return Consumed(
        name,
        None if not lags or None in lags else sum(lag for lag in lags if lag is not None),
        sight.handled.per_second(handled),
        shown,
        len(parts) - len(shown),
        tables.paused.get(name) if tables else None,
    )


def _owners(topics: Topics | None) -> dict[Input | int, str]:
    """Return the worker that owns each input and each lane."""
    found: dict[Input | int, str] = {}
    for member in topics.members if topics else ():
        name = member.name if member.slot is None else str(member.slot)
        found |= dict.fromkeys([*member.inputs, *member.lanes], name)
    return found


def _lanes(topics: Topics | None, tables: Tables | None) -> list[LaneRow]:
    owners = _owners(topics)
    if tables is None:
        return [LaneRow(lane, owners[lane], None, None) for lane in sorted(n for n in owners if isinstance(n, int))]
    return [
        LaneRow(lane.lane, owners.get(lane.lane), lane.rows_at_most, lane.oldest_seconds if lane.first else None)
        for lane in tables.lanes
    ]


def _workers(sight: Sight, topics: Topics | None, tables: Tables | None) -> list[Worker]:
    holders = {one.slot: one for one in tables.holders} if tables else {}
    members = {one.slot: one for one in topics.members if one.slot is not None} if topics else {}
    lost = dict(sight.slots.lost) if tables else {}
    found = []
    for slot in sorted({*holders, *members, *lost}):
        holder, member = holders.get(slot), members.get(slot)
        shares = bool(member and (member.inputs or member.lanes))
        if holder is not None and member is not None:
            state, words = ("ok", "works") if shares else ("ok", "waits for a share")
        elif holder is not None:
            state, words = ("warn", "joins the group, or recovers") if topics else ("unknown", "holds its slot")
        elif member is not None:
            state, words = ("bad", "gone; Kafka still counts it in") if tables else ("unknown", "a member")
        else:
            state, words = "bad", "gone"
        found.append(
            Worker(
                str(slot),
                state,  # type: ignore[arg-type]
                words,
                holder.host if holder else member.host if member else None,
                holder.seconds if holder else None,
                _grouped(member.inputs) if member else [],
                " ".join(map(str, member.lanes)) if member else "",
            )
        )
    strangers = [one for one in topics.members if one.slot is None] if topics else []
    return [
        *found,
        *(
            Worker("none", "warn", f"a member that is no worker: {one.name}", one.host, None, [], "")
            for one in strangers
        ),
    ]


def _grouped(inputs: list[Input]) -> list[str]:
    """Name inputs by topic: `order.events 0 2`."""
    topics = dict.fromkeys(source.topic for source in inputs)
    return [f"{name} {' '.join(str(one.partition) for one in inputs if one.topic == name)}" for name in topics]


def number(value: int | None) -> str:
    """Show a number."""
    return "unknown" if value is None else f"{value:,}"


def rate(value: float | None) -> str:
    """Show a rate."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}/s" if value >= 100 else f"{value:.1f}/s"


def span(seconds: float | None) -> str:
    """Show an age."""
    return age(seconds) or "unknown"
