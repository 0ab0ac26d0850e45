"""What is known of an aggregate, piece by piece, as the databases and the topics have it; and what an event's id says
of its cause.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..protocol.ports import Input, Position
from ..scheduling import RECURRING

Identity = tuple[str, str]
"""The source and the id of an event, by which the inbox knows it."""


class Place(NamedTuple):
    """Where a record is, or was before its topic was created again."""

    topic: str
    partition: int
    offset: int

    @property
    def input(self) -> Input:
        return Input(self.topic, self.partition)

    def __str__(self) -> str:
        return f"{self.input}@{self.offset}"


class Cause(NamedTuple):
    """What an event's id says of its cause: a record, or a request, and perhaps a call that either of them made."""

    place: Place | None = None
    epoch: int = 0
    call: str = ""
    """The id of the call whose answer it is."""
    request: bool = False
    began: datetime | None = None
    """When the id of a request's event was made, by the clock of the API."""
    run: str = ""
    """The name and the moment of a recurring event."""


_CHAIN = r"(?:\.\w+\.[0-9]{1,9})"
_RECORD = re.compile(rf"([A-Za-z0-9._-]+)-([0-9]{{1,9}})\.([0-9]{{1,9}})\.([0-9]{{1,18}}){_CHAIN}({_CHAIN}*)")
_UUID = re.compile(rf"([0-9a-f]{{8}}-[0-9a-f]{{4}}-7[0-9a-f]{{3}}-[0-9a-f]{{4}}-[0-9a-f]{{12}})({_CHAIN}*)")
_HASH = re.compile(rf"[0-9a-f]{{32}}{_CHAIN}+")
_RUN = re.compile(rf"{re.escape(RECURRING)}.+\.[0-9]{{8}}T[0-9]{{6}}Z(?:\.[0-9T]+)?", re.DOTALL)
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLISECOND = 200_000_000_000_000
"""The year 8307: from there a minute may be added without leaving the calendar."""
_LAST = re.compile(rf"{_CHAIN}\Z")
ID_MAX = 500
"""Bytes of an id that is read: no longer one is an event's (`shared.events`)."""


def cause_of(source: str, event_id: str) -> Cause | None:
    """Read an id that a service of this library has made; None for any other."""
    if len(event_id) > ID_MAX or not event_id.startswith(f"{source}:"):
        return None
    rest = event_id[len(source) + 1 :]
    before = _LAST.sub("", event_id)
    if found := _RECORD.fullmatch(rest):
        place = Place(found[1], int(found[2]), int(found[4]))
        return Cause(place, int(found[3]), call=before if found[5] else "")
    if found := _UUID.fullmatch(rest):
        return Cause(request=True, began=_time_of(found[1]), call=before if found[2] else "")
    if _HASH.fullmatch(rest):  # the end of a long chain of calls
        return Cause(call=before)
    return Cause(run=rest) if _RUN.fullmatch(rest) else None


def _time_of(uuid7: str) -> datetime | None:
    return moment(int(uuid7[:8] + uuid7[9:13], 16))


def moment(milliseconds: int) -> datetime | None:
    """Return a time that somebody has written, in milliseconds since 1970; None for what is none."""
    return _1970 + timedelta(milliseconds=milliseconds) if 0 < milliseconds < _LAST_MILLISECOND else None


def source_of(event_id: str) -> str:
    """Return the service that has made an id, judging by the id; empty if it names none."""
    source, separator, _ = event_id.partition(":")
    return source if separator and re.fullmatch(r"[A-Za-z0-9._-]{1,200}", source) else ""


class Found(NamedTuple):
    """A record of a topic."""

    place: Place
    written: datetime
    """By the clock of its producer or its broker."""
    key: str
    source: str
    event_id: str
    event: str
    """Its type, with the version."""
    decided: str = ""
    """When the database of its source recorded it, as its header says."""
    traceparent: str | None = None
    size: int = 0
    value: str | None = None

    @property
    def identity(self) -> Identity:
        return self.source, self.event_id

    @property
    def decided_at(self) -> datetime | None:
        """`decided`, if it is a time."""
        try:
            found = datetime.fromisoformat(self.decided)
            return moment((found - _1970) // timedelta(milliseconds=1)) and found.astimezone(UTC)
        except (ValueError, OverflowError, TypeError):  # a stranger's, or without a time zone
            return None


class Waiting(NamedTuple):
    """A row of the outbox, or of the schedule."""

    event_id: str
    event: str
    topic: str
    key: str
    since: datetime
    lane: int
    claimed: bool = False
    name: str = ""
    """Of one that is scheduled."""
    due: datetime | None = None
    traceparent: str | None = None
    value: str | None = None


class Claimed(NamedTuple):
    """An event in the log of claims."""

    event_id: str
    topic: str
    lane: int
    position: int
    at: datetime


class Letter(NamedTuple):
    """A dead letter."""

    id: int
    place: Place
    epoch: int
    key: str
    error: str
    detail: str
    set_aside: datetime
    redriven: datetime | None = None
    dismissed: datetime | None = None
    dismissed_by: int | None = None
    source: str = ""
    event_id: str = ""
    event: str = ""
    traceparent: str | None = None
    size: int = 0
    value: str | None = None


class Parked(NamedTuple):
    """A record that waits in the database."""

    place: Place
    epoch: int
    key: str
    source: str
    event_id: str
    attempts: int
    due: datetime | None
    since: datetime
    error: str | None
    detail: str | None


class Asked(NamedTuple):
    """A call to a third party that is not finished."""

    id: int
    event_id: str
    """The id of the call, made as those of events are."""
    event: str
    """Its type, with the version."""
    to: str
    key: str
    since: datetime
    attempts: int
    maybe_done: bool
    stuck: bool
    failure: str | None


class Requested(NamedTuple):
    """A request whose answer is kept under its Idempotency-Key."""

    scope: str
    """Who asked, the method and the path."""
    key: str
    status: int | None
    at: datetime


class Decided(NamedTuple):
    """A decision of an operator."""

    id: int
    at: datetime
    command: str
    target: str
    by: str | None
    reason: str | None


class Trying(NamedTuple):
    """A batch that is being handled, or at which processes ended."""

    input: Input
    first: int
    last: int
    ends: int
    """How often a record that is tried alone was begun; if `stuck`, how many processes ended at it."""
    since: datetime
    stuck: bool

    @property
    def ended(self) -> int:
        """How many processes ended at its first record. The latest attempt is under way, as far as anybody knows."""
        return self.ends if self.stuck else max(self.ends - 1, 0)


@dataclass
class Known:
    """What one service's database knows."""

    positions: dict[Input, Position] = field(default_factory=dict)
    topics: frozenset[str] = frozenset()
    """Those that it consumes or publishes on."""
    takes: frozenset[tuple[str, str]] | None = None
    """Topic and type, with the version, of the events that have a handler; None if its code is not at hand."""
    handled: dict[Identity, datetime] = field(default_factory=dict)
    outbox: dict[str, Waiting] = field(default_factory=dict)
    schedule: dict[str, Waiting] = field(default_factory=dict)
    claimed: dict[str, Claimed] = field(default_factory=dict)
    letters: dict[int, Letter] = field(default_factory=dict)
    parked: dict[Place, Parked] = field(default_factory=dict)
    calls: dict[int, Asked] = field(default_factory=dict)
    requests: dict[tuple[str, str], Requested] = field(default_factory=dict)
    decisions: dict[int, Decided] = field(default_factory=dict)
    pauses: dict[str, str] = field(default_factory=dict)
    """The topics that are paused, with the number of the decision, who made it, since when, and why."""
    trying: Sequence[Trying] = ()

    def may_take(self, found: Found) -> bool:
        """Whether the service may have a handler for a record."""
        return self.takes is None or not found.event or (found.place.topic, found.event) in self.takes


@dataclass
class Facts:
    """What all of them know, and the records of the topics."""

    services: dict[str, Known] = field(default_factory=dict)
    records: dict[Place, Found] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    """The services whose databases did not answer."""
