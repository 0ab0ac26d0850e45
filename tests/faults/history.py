"""The requests and events of a service and their results, and the check that they agree.

The check knows nothing of the library: it compares what a client fed, what the database holds, and what readers of the
topics saw. Its anomalies are those of Jepsen's tests of Kafka and of Elle (https://github.com/jepsen-io/kafka,
https://github.com/jepsen-io/elle), in the words of a service. It is itself tested, by histories with each anomaly
planted: `tests/unit/faults/test_history.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import NamedTuple


class Kind(Enum):
    """The kinds of anomaly."""

    LOST = "lost"
    """Something accepted has neither its effect nor its event."""
    DUPLICATE = "duplicate"
    """An effect was made twice, or an event published twice."""
    TORN = "torn"
    """An effect has no event: half of what belongs together."""
    ABORTED_READ = "aborted read"
    """An event can be read, or could once, about something that never took effect."""
    ORDER = "order"
    """A key's events or effects have an order that the database did not decide."""
    OFFSETS = "inconsistent offsets"
    """A position does not match its effect."""
    UNREST = "unrest"
    """Something is still open after everything came to rest."""


class Anomaly(NamedTuple):
    """One anomaly."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.text}"


class Consumed(NamedTuple):
    """One event as a read_committed reader sees it."""

    partition: int
    offset: int
    event_id: str
    key: str
    step: int
    """1, 2, 3, ... for each key, in the order that the database decided."""
    number: int
    """The number of the event or request that caused it."""


class Trail(NamedTuple):
    """The database's state of one key."""

    steps: int
    handled: Sequence[int]
    requested: Sequence[int]


@dataclass
class History:
    """The record of one run."""

    asked: Mapping[str, Sequence[int]]
    """Events that Kafka acknowledged, to be handled: numbers by key, in the order of the topic."""
    requested: Mapping[str, Sequence[int]]
    """Answered requests, in their order."""
    in_doubt: Mapping[str, Sequence[int]]
    """Requests without an answer: each may have taken effect or not."""
    rejected: Sequence[tuple[str, int]]
    """Events that should be set aside."""
    effects: Sequence[tuple[str, int]]
    trails: Mapping[str, Trail]
    dead_letters: Sequence[tuple[int, int]]
    """Partition and offset of each record that was set aside, in the database."""
    told: Sequence[Consumed]
    """The service's topic at the end."""
    announced_dead_letters: Sequence[str]
    """Ids of the dead letters on their topic."""
    live: Sequence[Consumed] = ()
    """The events seen by a reader that followed the topic all the time."""
    handled: Mapping[int, int] = field(default_factory=dict)
    """The next offset by partition, in PostgreSQL."""
    readable: Mapping[int, int] = field(default_factory=dict)
    """The last stable offset of the same partitions."""
    published: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    """The published position of each lane and its metadata, in Kafka."""
    claims: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    """Position and id of each lane's claim, in PostgreSQL."""
    unpublished: int = 0
    """Rows in the outbox."""
    open_transactions: Sequence[str] = ()


def anomalies(history: History) -> list[Anomaly]:
    """Return all anomalies; an empty list if there are none."""
    return [
        *_effects(history),
        *_events(history),
        *_order(history),
        *_dead_letters(history),
        *_live(history),
        *_offsets(history),
    ]


def _numbers(history: History, key: str) -> list[int]:
    """Return what took effect on a key in the database."""
    trail = history.trails.get(key, Trail(0, (), ()))
    return [*trail.handled, *trail.requested]


def _effects(history: History) -> Iterator[Anomaly]:
    """Compare what was fed with the database."""
    effects = Counter(history.effects)
    told = {(consumed.key, consumed.number) for consumed in history.told}
    for key in sorted({*history.asked, *history.requested, *history.trails}):
        asked, requested = history.asked.get(key, ()), history.requested.get(key, ())
        trail = history.trails.get(key, Trail(0, (), ()))
        done = Counter(_numbers(history, key))
        # A number that was fed twice, by two sources say, takes effect twice.
        for number, times in Counter([*asked, *requested]).items():
            if done[number] < times:
                # Published without having happened is worse than lost; see below.
                if done[number] or (key, number) not in told:
                    yield Anomaly(Kind.LOST, f"{key}: {number} was accepted {times} times and did {done[number]}")
            elif done[number] > times:
                yield Anomaly(Kind.DUPLICATE, f"{key}: {number} took effect {done[number]} times")
        for number, times in Counter(asked).items():
            if effects[key, number] > times and done[number] == times:
                yield Anomaly(Kind.DUPLICATE, f"{key}: {number} has {effects[key, number]} rows of effects")
            elif effects[key, number] == 0 and done[number]:
                yield Anomaly(Kind.TORN, f"{key}: {number} changed one table and not the other")
        known = {*asked, *requested, *history.in_doubt.get(key, ())}
        for number in sorted(done.keys() - known):
            yield Anomaly(Kind.DUPLICATE, f"{key}: {number} took effect, and was never accepted")
        if trail.steps != sum(done.values()):
            yield Anomaly(Kind.TORN, f"{key}: {trail.steps} steps, of which {sum(done.values())} are known")


def _events(history: History) -> Iterator[Anomaly]:
    """Compare the topic with the database."""
    done = Counter((key, number) for key in history.trails for number in _numbers(history, key))
    times = Counter((consumed.key, consumed.number) for consumed in history.told)
    for key, number in sorted(done.keys() - times.keys()):
        yield Anomaly(Kind.TORN, f"{key}: {number} took effect, and nothing was published about it")
    for (key, number), count in sorted(times.items()):
        if (key, number) not in done:
            yield Anomaly(Kind.ABORTED_READ, f"{key}: {number} was published, and did not take effect")
        elif count > done[key, number]:
            yield Anomaly(Kind.DUPLICATE, f"{key}: {number} was published {count} times")
    for event_id, count in Counter(consumed.event_id for consumed in history.told).items():
        if count > 1 and len({(h.key, h.number) for h in history.told if h.event_id == event_id}) > 1:
            yield Anomaly(Kind.DUPLICATE, f"{count} different events have the id {event_id}")


def _order(history: History) -> Iterator[Anomaly]:
    """Check each key's order: what was fed first is handled first, and steps are published in order."""
    for key, trail in sorted(history.trails.items()):
        for what, fed, done in (
            ("handled", history.asked.get(key, ()), trail.handled),
            ("requested", history.requested.get(key, ()), trail.requested),
        ):
            once = [number for number in dict.fromkeys(done) if number in set(fed)]
            if once != [number for number in dict.fromkeys(fed) if number in set(once)]:
                yield Anomaly(Kind.ORDER, f"{key}: {what} {list(done)}, fed {list(fed)}")
    steps: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    partitions: dict[str, set[int]] = defaultdict(set)
    for consumed in history.told:
        steps[consumed.partition, consumed.key].append((consumed.offset, consumed.step))
        partitions[consumed.key].add(consumed.partition)
    for key, found in sorted(partitions.items()):
        if len(found) > 1:
            yield Anomaly(Kind.ORDER, f"{key}: published on the partitions {sorted(found)}")
    for (partition, key), published in sorted(steps.items()):
        for (_, before), (offset, after) in pairwise(sorted(published)):
            if after < before:
                yield Anomaly(Kind.ORDER, f"{key}: step {after} at [{partition}]@{offset} comes behind step {before}")


def _dead_letters(history: History) -> Iterator[Anomaly]:
    wanted = len(history.rejected)
    for where, found in (("the database", history.dead_letters), ("the topic", history.announced_dead_letters)):
        if len(set(found)) < len(found):
            yield Anomaly(Kind.DUPLICATE, f"dead letters in {where}: {len(found)} of {len(set(found))} records")
        if len(set(found)) < wanted:
            kind = Kind.LOST if where == "the database" else Kind.TORN
            yield Anomaly(kind, f"dead letters in {where}: {len(set(found))}, expected {wanted}")
        if len(set(found)) > wanted:
            yield Anomaly(Kind.ABORTED_READ, f"dead letters in {where}: {len(set(found))}, expected {wanted}")


def _live(history: History) -> Iterator[Anomaly]:
    """Check that a reader following the topic saw nothing that has vanished, and nothing twice."""
    there = set(history.told)
    for consumed in history.live:
        if consumed not in there:
            yield Anomaly(
                Kind.ABORTED_READ,
                f"{consumed.event_id} was read at [{consumed.partition}]@{consumed.offset} and is gone",
            )
    for (partition, offset), count in Counter((h.partition, h.offset) for h in history.live).items():
        if count > 1:
            yield Anomaly(Kind.DUPLICATE, f"[{partition}]@{offset} was read {count} times by one reader")


def _offsets(history: History) -> Iterator[Anomaly]:
    if history.handled != history.readable:
        yield Anomaly(
            Kind.OFFSETS, f"The next offset is {dict(history.handled)}, the topic ends at {dict(history.readable)}"
        )
    if history.published != history.claims:
        yield Anomaly(
            Kind.OFFSETS, f"The published position is {dict(history.published)}, the claims are {dict(history.claims)}"
        )
    if history.unpublished:
        yield Anomaly(Kind.UNREST, f"{history.unpublished} rows are still in the outbox")
    for text in history.open_transactions:
        yield Anomaly(Kind.UNREST, text)
