"""Where in a topic: what an operator types, an offset or a time, and the offset that a time means.

Kafka knows each record's time by the clock of its producer, or of the broker if the topic says LogAppendTime.
"""

from argparse import ArgumentTypeError
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from ..protocol.ports import Input
from .group import Group, Span

Place = int | datetime
"""An offset, or a time."""

_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def place(word: str) -> Place:
    """Read an offset, or a time that is not to come and says its own offset from UTC. Raises `ArgumentTypeError`."""
    if word.isascii() and word.isdecimal() and int(word) < 2**63:
        return int(word)
    try:
        time = datetime.fromisoformat(word.upper())
    except ValueError:
        raise ArgumentTypeError(f"{word} is neither an offset nor a time such as 2026-11-28T09:00Z") from None
    if time.utcoffset() is None:
        raise ArgumentTypeError(f"{word} does not say in which time zone: add Z for UTC, or an offset such as +01:00")
    if time > (now := datetime.now(UTC)):
        raise ArgumentTypeError(f"{word} is still to come: here it is {now.isoformat(timespec='seconds')}")
    try:
        return time.astimezone(UTC)
    except OverflowError:  # the year 1 begins earlier in the east
        raise ArgumentTypeError(f"{word} is before the year 1 of UTC") from None


def milliseconds(time: datetime) -> int:
    """Return the first whole millisecond that is not before `time`; 0 before 1970, since Kafka takes a negative one for
    a place.
    """
    return max(0, -((_1970 - time) // timedelta(milliseconds=1)))


def offsets(group: Group, spans: Mapping[Input, Span], time: datetime) -> dict[Input, int]:
    """Return the offset of each partition's first record at or after `time`, or its end if there is none."""
    found = group.at_time(spans, milliseconds(time))
    return {source: found[source] if found.get(source, -1) >= 0 else span.high for source, span in spans.items()}


def words(time: datetime) -> str:
    """Write a time as it is shown and stored."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
