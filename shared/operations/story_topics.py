"""The records of an aggregate in the topics, read within bounds: by number, by time, the newest first.

The key decides the partition, so only that one is read, unless nothing but an event's id is known. A partition is read
in stretches from its end backwards, each forwards; so what was not looked at when the time is over is the oldest, and
is named. With a time to begin at, it is read from there on instead.
"""

import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from confluent_kafka import Message

from ..errors import ExactlyOnceError, KafkaUnavailable
from ..events import ATTRIBUTE_MAX, OURS
from ..kafka.consumer import headers as headers_of
from ..protocol.ports import Input
from .group import Group, Span
from .maintenance import Context
from .moments import milliseconds
from .reading import Reading
from .story_facts import Found, Place, moment

RECORDS_MAX = 100_000
"""Records of a partition that are looked at: a second or two, if they are small."""

SECONDS_MAX = 20.0
"""For all reading of topics together: as long as a person waits at 3 am. Records of 900 kB may be too many for it."""

STRETCHES = (5_000, 20_000, 75_000)
"""A partition is read in these many records, the newest first; each costs a client's start."""

KEPT_MAX = 500
"""Records of a story that are kept of one partition, the newest."""

SINGLE_MAX = 50
"""Records that are looked up by their places."""

SINGLE_SECONDS = 10.0
"""For all of them together; each takes a client's start and some milliseconds."""

VALUE_MAX = 2_000
"""Bytes that are kept of a value, if values are asked for."""

WORD_MAX = 4_000
"""Characters that are kept of a key: more than the longest of ours."""

_1970 = datetime(1970, 1, 1, tzinfo=UTC)

Wanted = Callable[[bytes, Mapping[str, str]], bool]
"""Whether a record belongs to the story, by its key and our headers."""


@dataclass(frozen=True)
class Bounds:
    """How far the topics are looked through."""

    records: int = RECORDS_MAX
    seconds: float = SECONDS_MAX
    since: datetime | None = None
    """Read from there on, instead of the newest."""
    everywhere: bool = False
    """Look for a key in all partitions: a producer of another kind may have put it into another one."""
    values: bool = False
    """Keep the beginnings of the values."""


class Looked(NamedTuple):
    """What was read of a partition."""

    which: Literal["all ", "the newest ", ""]
    offsets: int
    source: Input

    def __str__(self) -> str:
        return f"{self.which}{self.offsets:,} offsets of {self.source}"


def in_lines(looked: Iterable[Looked]) -> list[str]:
    """Say it in a line for each topic: an id that nobody knows is looked for in all partitions of all topics."""
    found: dict[tuple[str, str], dict[Input, Looked]] = defaultdict(dict)
    for one in sorted(looked, key=lambda one: (one.source.topic, one.offsets)):  # of two readings, the longer one
        found[one.source.topic, one.which][one.source] = one
    lines = []
    for (topic, which), of_topic in found.items():
        offsets = sum(one.offsets for one in of_topic.values())
        many = f"{which}{offsets:,} offsets of {topic}, {len(of_topic)} partitions"
        lines.append(many if len(of_topic) > 1 else str(next(iter(of_topic.values()))))
    return lines


class Topics:
    """The topics of a story. What cannot be read is noted, and no error."""

    def __init__(self, context: Context, group: Group, bounds: Bounds) -> None:
        self._context = context
        self._group = group
        self._bounds = bounds
        self._deadline = self._until = time.monotonic() + bounds.seconds
        self._single, self._single_left = 0, SINGLE_SECONDS
        self._partitions: dict[str, int] = {}
        self.away = False
        """Whether the brokers did not answer."""
        self.looked: dict[Looked, None] = {}
        """What was read."""
        self.missed: dict[str, None] = {}
        """What was not, and why."""

    def know(self, own: Collection[str], others: Collection[str]) -> None:
        """Find out how many partitions these topics have. Each of the others is asked for alone: this service may not
        have the right to see it.
        """
        for names in ([sorted(own)] if own else []) + [[name] for name in sorted(set(others) - set(own))]:
            try:
                found = self._group.topics(names)
            except KafkaUnavailable as error:
                self.away = True
                self._miss(f"the topics could not be read: {error}")
                return
            except ExactlyOnceError as error:
                self._miss(f"{', '.join(names)} could not be read: {error}")
                continue
            self._partitions |= {name: topic.partitions for name, topic in found.items()}
            for name in set(names) - found.keys():
                self._miss(f"{name} does not exist, or does not exist any more")

    @property
    def names(self) -> Sequence[str]:
        """The topics that can be read."""
        return sorted(self._partitions)

    def inputs(self, topic: str, key: str | None = None) -> list[Input]:
        """Return the partitions of a topic, or the one of a key: producers of this library choose it by CRC32."""
        count = self._partitions.get(topic, 0)
        if key is None or not count:
            return [Input(topic, number) for number in range(count)]
        return [Input(topic, zlib.crc32(key.encode()) % count)]

    def read(self, inputs: Collection[Input], wanted: Wanted, records: int | None = None) -> list[Found]:
        """Return the records in these partitions that are wanted, within the bounds."""
        found: list[Found] = []
        topics = sorted({source.topic for source in inputs})
        for number, topic in enumerate(topics):
            chosen = [source for source in inputs if source.topic == topic]
            now = time.monotonic()
            self._until = now + max(0.0, self._deadline - now) / (len(topics) - number)
            try:
                found += self._read(chosen, wanted, max(1, (records or self._bounds.records) // len(chosen)))
            except ExactlyOnceError as error:
                self._miss(f"{', '.join(map(str, chosen))} could not be read: {error}")
        return found

    def _read(self, inputs: Sequence[Input], wanted: Wanted, records: int) -> list[Found]:
        spans = self._group.spans(inputs)
        kept: dict[Input, list[Found]] = {source: [] for source in spans}
        plans = {source: self._plan(source, span, records) for source, span in spans.items()}
        looked: dict[Input, list[tuple[int, int]]] = {source: [] for source in spans}
        for turn in range(max((len(plan) for plan in plans.values()), default=0)):
            ranges = {source: plan[turn] for source, plan in plans.items() if turn < len(plan)}
            older: dict[Input, deque[Found]] = {source: deque(maxlen=KEPT_MAX) for source in ranges}
            for source, reached in self._stretch(ranges, wanted, older).items():
                if reached > ranges[source][0]:
                    looked[source].append((ranges[source][0], reached))
                kept[source] = [*older[source], *kept[source]][-KEPT_MAX:]
        for source, span in spans.items():
            self._report(source, span, looked[source])
            if len(kept[source]) == KEPT_MAX:
                self._miss(f"of {source} only {KEPT_MAX} records of the story are shown")
        return [one for records_of in kept.values() for one in records_of]

    def _plan(self, source: Input, span: Span, records: int) -> list[tuple[int, int]]:
        """Return the stretches of a partition to read, in their order."""
        if self._bounds.since is not None:
            at = self._group.at_time([source], milliseconds(self._bounds.since)).get(source, -1)
            first = span.stable if at < 0 else at
            return [(first, min(first + records, span.stable))] if first < span.stable else []
        plan, end, left = [], span.stable, records
        for size in (*STRETCHES, records):
            first = max(span.low, end - min(size, left))
            if first < end:
                plan.append((first, end))
            left, end = left - (end - first), first
        return plan

    def _stretch(
        self, ranges: Mapping[Input, tuple[int, int]], wanted: Wanted, into: Mapping[Input, deque[Found]]
    ) -> dict[Input, int]:
        """Read one stretch of each partition; return how far it came in each."""
        if time.monotonic() >= self._until:
            return {}
        reading = Reading(self._context, ranges, removed="earliest")
        reached = {source: first for source, (first, _) in ranges.items()}
        for portion in reading.portions():
            for source, offset, message in portion:
                reached[source] = offset + 1
                one = self._found(source, offset, message, wanted)
                if one is not None:
                    into[source].append(one)
            if time.monotonic() >= self._until:
                break
        return {source: reached[source] if source in reading.left else ranges[source][1] for source in ranges}

    def near(self, topic: str, since: datetime, records: int, event_id: str) -> list[Found]:
        """Return the records of an event among the first ones of a topic from a time on."""
        inputs = self.inputs(topic)
        found: dict[Input, deque[Found]] = {source: deque(maxlen=KEPT_MAX) for source in inputs}
        try:
            spans = self._group.spans(inputs)
            starts = self._group.at_time(spans, milliseconds(since))
            ranges = {
                source: (starts[source], min(starts[source] + max(1, records // len(inputs)), span.stable))
                for source, span in spans.items()
                if 0 <= starts.get(source, -1) < span.stable
            }
            self._until = self._deadline
            self._stretch(ranges, lambda _key, headers: headers.get("ce_id") == event_id, found)
        except ExactlyOnceError as error:
            self._miss(f"{topic} could not be read: {error}")
        return [one for records_of in found.values() for one in records_of]

    def one(self, place: Place) -> Found | None:
        """Return the record at a place, if it is there."""
        if self._partitions.get(place.topic, 0) <= place.partition:
            return None
        if self._single >= SINGLE_MAX or self._single_left <= 0:
            self._miss("not every record that has caused one of them was looked up: they are too many")
            return None
        self._single += 1
        began = time.monotonic()
        try:
            return self._one(place, began + self._single_left)
        except ExactlyOnceError as error:
            self._miss(f"{place} could not be read: {error}")
            return None
        finally:
            self._single_left -= time.monotonic() - began

    def _one(self, place: Place, deadline: float) -> Found | None:
        span = self._group.spans([place.input]).get(place.input)
        if span is None or not span.low <= place.offset < span.stable:
            return None
        reading = Reading(self._context, {place.input: (place.offset, place.offset + 1)}, removed="earliest")
        for portion in reading.portions():
            for source, offset, message in portion:
                if offset == place.offset:
                    return self._found(source, offset, message, lambda _key, _headers: True)
            if time.monotonic() > deadline:
                break
        return None

    def _found(self, source: Input, offset: int, message: Message, wanted: Wanted) -> Found | None:
        key: bytes = message.key() or b""
        headers = _ours(headers_of(message) or ())
        if not wanted(key, headers):
            return None
        value: bytes = message.value() or b""
        return Found(
            Place(*source, offset),
            moment(message.timestamp()[1]) or _1970,
            _text(key[:WORD_MAX]),
            headers.get("ce_source", ""),
            headers.get("ce_id", ""),
            headers.get("ce_type", ""),
            headers.get("ce_time", ""),
            headers.get("traceparent"),
            len(value),
            _text(value[:VALUE_MAX]) if self._bounds.values else None,
        )

    def _report(self, source: Input, span: Span, looked: Sequence[tuple[int, int]]) -> None:
        """Say what of a partition was looked at, and what was not."""
        first = min((one for one, _ in looked), default=span.stable)
        read = sum(end - one for one, end in looked)
        if read == span.stable - span.low:
            self.looked[Looked("all ", read, source)] = None
        else:
            stretches = ", ".join(f"{one} to {end - 1}" for one, end in sorted(looked)) or "none"
            newest = self._bounds.since is None and read == span.stable - first
            if newest and read:
                self.looked[Looked("the newest ", read, source)] = None
                self._miss(f"{source}: older ones than offset {first} were not looked at")
            else:
                self.looked[Looked("", read, source)] = None
                self._miss(f"{source}: of offsets {span.low} to {span.stable - 1}, only {stretches} were looked at")
        if span.stable < span.high:
            self._miss(f"{source}: an open transaction holds back what is from offset {span.stable} on")

    def _miss(self, note: str) -> None:
        self.missed[note] = None


def _ours(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return our headers, of which a stranger's may be as long as a record."""
    found: dict[str, str] = {}
    for name, held in headers:
        if held is not None and (name in OURS or name == "traceparent") and name not in found:
            found[name] = _text(held[:ATTRIBUTE_MAX])
    return found


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace").replace("\0", "\\x00")  # no table has that character
