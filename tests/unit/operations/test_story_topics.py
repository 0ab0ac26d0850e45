"""The topics of a story are read within bounds, and what was not looked at is named."""

import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

import pytest

from shared.errors import KafkaUnavailable, Misconfigured
from shared.operations import story_topics
from shared.operations.group import Span, Topic
from shared.operations.story_facts import Place
from shared.operations.story_topics import KEPT_MAX, VALUE_MAX, Bounds, Looked, Topics, in_lines
from shared.protocol.ports import Input

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
ORDERS = Input("order.events", 0)
KEY = b"o-1"


class Message(NamedTuple):
    """A record, as the client returns it."""

    of: bytes = KEY
    content: bytes = b"{}"
    head: Any = ()
    milliseconds: int = 0

    def key(self) -> bytes:
        return self.of

    def value(self) -> bytes:
        return self.content

    def headers(self) -> Any:
        return self.head

    def timestamp(self) -> tuple[int, int]:
        return 1, self.milliseconds


class Group:
    """What a group answers about partitions; `log` maps each to its records by offset."""

    def __init__(self, log: Mapping[Input, Mapping[int, Message]], *, open_: int = 0, low: int = 0) -> None:
        self.log, self._open, self._low = log, open_, low

    def topics(self, names: Collection[str]) -> dict[str, Topic]:
        if "secret.events" in names:
            raise Misconfigured("no right to see it")
        counts = {name: sum(source.topic == name for source in self.log) for name in names}
        return {name: Topic("id", count) for name, count in counts.items() if count}

    def spans(self, inputs: Collection[Input]) -> dict[Input, Span]:
        ends = {source: max(self.log[source], default=-1) + 1 for source in inputs}
        return {source: Span(self._low, end - self._open, end) for source, end in ends.items()}

    def at_time(self, inputs: Collection[Input], milliseconds: int) -> dict[Input, int]:
        return {
            source: next((n for n, one in sorted(self.log[source].items()) if one.milliseconds >= milliseconds), -1)
            for source in inputs
        }


class Reading:
    """A reading of that log; `log_of_all` is set by `topics`."""

    log_of_all: ClassVar[Mapping[Input, Mapping[int, Message]]] = {}
    ranges: ClassVar[list[Mapping[Input, tuple[int, int]]]] = []
    clock: ClassVar[list[float]] = []
    fails: ClassVar[set[str]] = set()

    def __init__(self, _context: object, ranges: Mapping[Input, tuple[int, int]], *, removed: str) -> None:
        assert removed == "earliest"
        self.left, self._ranges = set(ranges), ranges
        Reading.ranges.append(ranges)

    def portions(self) -> Iterator[list[tuple[Input, int, Message]]]:
        for source, (first, end) in self._ranges.items():
            if source.topic in Reading.fails:
                raise KafkaUnavailable(f"{source} cannot be read: TOPIC_AUTHORIZATION_FAILED")
            for begin in range(first, end, 1_000):
                portion = range(begin, min(begin + 1_000, end))
                if begin + 1_000 >= end:
                    self.left.discard(source)
                if Reading.clock:
                    Reading.clock[0] += 1.0
                yield [(source, n, self.log_of_all[source][n]) for n in portion if n in self.log_of_all[source]]


@pytest.fixture(autouse=True)
def _reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_topics, "Reading", Reading)
    monkeypatch.setattr(Reading, "ranges", [])
    monkeypatch.setattr(Reading, "clock", [])
    monkeypatch.setattr(Reading, "fails", set())


def topics(
    log: Mapping[Input, Mapping[int, Message]], bounds: Bounds | None = None, *, open_: int = 0, low: int = 0
) -> Topics:
    Reading.log_of_all = log
    context: Any = None
    group: Any = Group(log, open_=open_, low=low)
    made = Topics(context, group, bounds or Bounds())
    made.know({source.topic for source in log}, ())
    return made


def ours(key: bytes, _headers: Mapping[str, str]) -> bool:
    return key == KEY


def filled(number: int, *mine: int) -> dict[Input, dict[int, Message]]:
    return {ORDERS: {n: Message(KEY if n in mine else b"other") for n in range(number)}}


def test_a_short_partition_is_read_whole() -> None:
    made = topics(filled(10, 2, 7))

    found = made.read([ORDERS], ours)

    assert [one.place.offset for one in found] == [2, 7]
    assert list(map(str, made.looked)) == ["all 10 offsets of order.events[0]"]
    assert list(made.missed) == []


def test_of_a_long_one_the_newest_and_what_was_not_looked_at_is_said() -> None:
    made = topics(filled(9_000, 10, 6_999, 7_000, 8_999), Bounds(records=2_000))

    found = made.read([ORDERS], ours)

    assert [one.place.offset for one in found] == [7_000, 8_999]
    assert list(map(str, made.looked)) == ["the newest 2,000 offsets of order.events[0]"]
    assert list(made.missed) == ["order.events[0]: older ones than offset 7000 were not looked at"]


def test_it_is_read_from_its_end_backwards_in_stretches() -> None:
    made = topics(filled(40_000, 3, 20_000, 39_000), Bounds(records=30_000))

    found = made.read([ORDERS], ours)

    assert [ranges[ORDERS] for ranges in Reading.ranges] == [(35_000, 40_000), (15_000, 35_000), (10_000, 15_000)]
    assert [one.place.offset for one in found] == [20_000, 39_000], "in the order of the partition"


def test_when_the_time_is_over_the_oldest_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Reading.clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: Reading.clock[0])
    made = topics(filled(20_000, 1, 12_500, 19_000), Bounds(seconds=7.5))

    found = made.read([ORDERS], ours)

    assert [one.place.offset for one in found] == [1, 19_000]
    assert list(map(str, made.looked)) == ["8,000 offsets of order.events[0]"]
    assert list(made.missed) == [
        "order.events[0]: of offsets 0 to 19999, only 0 to 2999, 15000 to 19999 were looked at"
    ]


def test_each_topic_gets_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Reading.clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: Reading.clock[0])
    log = {Input(name, 0): {n: Message() for n in range(20_000)} for name in ("a.events", "b.events")}
    made = topics(log, Bounds(seconds=20))

    made.read(list(log), ours)

    assert sorted(map(str, made.looked)) == ["10,000 offsets of a.events[0]", "10,000 offsets of b.events[0]"]


def test_since_reads_forwards_from_a_time() -> None:
    log = {ORDERS: {n: Message(milliseconds=int(NOON.timestamp() * 1_000) + n * 1_000) for n in range(100)}}
    made = topics(log, Bounds(records=10, since=NOON + timedelta(seconds=50)))

    found = made.read([ORDERS], ours)

    assert [one.place.offset for one in found] == list(range(50, 60))
    assert found[0].written == NOON + timedelta(seconds=50)
    assert list(made.missed) == ["order.events[0]: of offsets 0 to 99, only 50 to 59 were looked at"]


def test_of_a_key_with_very_many_records_the_newest_are_kept() -> None:
    made = topics(filled(7_000, *range(7_000)))

    found = made.read([ORDERS], ours)

    assert [one.place.offset for one in found] == list(range(7_000 - KEPT_MAX, 7_000))
    assert f"of order.events[0] only {KEPT_MAX} records of the story are shown" in made.missed


def test_an_open_transaction_is_named() -> None:
    made = topics(filled(10, 2, 9), open_=2)

    assert [one.place.offset for one in made.read([ORDERS], ours)] == [2]
    assert list(made.missed) == ["order.events[0]: an open transaction holds back what is from offset 8 on"]


def test_what_retention_has_removed_is_not_called_read() -> None:
    made = topics({ORDERS: {n: Message() for n in range(50, 60)}}, low=50)

    assert len(made.read([ORDERS], ours)) == 10
    assert list(map(str, made.looked)) == ["all 10 offsets of order.events[0]"]


def test_a_key_is_looked_for_in_its_partition() -> None:
    log: dict[Input, dict[int, Message]] = {Input("order.events", n): {} for n in range(5)}

    assert topics(log).inputs("order.events", "o-1") == [Input("order.events", zlib.crc32(b"o-1") % 5)]
    assert len(topics(log).inputs("order.events")) == 5
    assert topics(log).inputs("gone.events", "o-1") == []


def test_topics_that_are_gone_or_that_it_may_not_see_are_named_and_the_others_read() -> None:
    made = topics(filled(3, 1))
    made.know(set(), {"gone.events", "secret.events"})

    assert made.names == ["order.events"]
    assert list(made.missed) == [
        "gone.events does not exist, or does not exist any more",
        "secret.events could not be read: no right to see it",
    ]


def test_a_topic_that_cannot_be_read_does_not_hide_the_others() -> None:
    log = {Input(name, 0): {0: Message()} for name in ("a.events", "b.events")}
    Reading.fails = {"a.events"}
    made = topics(log)

    assert [one.place.topic for one in made.read(list(log), ours)] == ["b.events"]
    assert list(made.missed) == [
        "a.events[0] could not be read: a.events[0] cannot be read: TOPIC_AUTHORIZATION_FAILED"
    ]


def test_a_record_by_its_place() -> None:
    made = topics(filled(10, 2))

    assert made.one(Place("order.events", 0, 4)) is not None
    assert made.one(Place("order.events", 0, 10)) is None
    assert made.one(Place("order.events", 7, 1)) is None
    assert made.one(Place("gone.events", 0, 1)) is None


def test_of_strangers_headers_and_values_only_a_part_is_kept() -> None:
    heads = [
        ("ce_id", b"\0\xff" * 900_000),
        ("x-secret", b"token"),
        ("ce_type", None),
        ("ce_source", b"a"),
        ("ce_source", b"b"),
    ]
    log = {ORDERS: {0: Message(content=b"\x1b[31m" + b"v" * 900_000, head=heads, milliseconds=2**62)}}

    (found,) = topics(log, Bounds(values=True)).read([ORDERS], ours)
    (bare,) = topics(log).read([ORDERS], ours)

    assert len(found.event_id) <= 4 * 500
    assert (found.source, found.event) == ("a", "")
    assert "token" not in repr(found)
    assert "\0" not in found.event_id, "a database could not be asked for it"
    assert found.value is not None
    assert len(found.value) == VALUE_MAX
    assert bare.value is None
    assert bare.size > 900_000


def test_what_was_looked_at_is_a_line_for_each_topic() -> None:
    one, other, alone = Input("a.events", 0), Input("a.events", 1), Input("b.events", 2)
    looked = [
        Looked("all ", 4, one),
        Looked("all ", 1_500, other),
        Looked("all ", 5, one),
        Looked("the newest ", 9, alone),
    ]

    assert in_lines(looked) == ["all 1,505 offsets of a.events, 2 partitions", "the newest 9 offsets of b.events[2]"]
