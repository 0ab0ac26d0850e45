"""An input that cannot be read further is reported, and left alone for a while."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from shared.kafka.batch_header import Header
from shared.kafka.consumer import GroupMember
from shared.kafka.undecodable import AGAIN_SECONDS, CODES, Unreadable
from shared.protocol.ports import NOTHING, Input

SOURCE = Input("asked", 1)


class Clock:
    """A clock that stands still until a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("code", CODES)
def test_it_names_the_batch_and_the_command_that_passes_over_it(code: int) -> None:
    made = Unreadable("tally", lambda _source, _offset: Header(17, 21, 1_012, "zstd"))
    words = made.note(SOURCE, 18, KafkaError(code))
    assert words.startswith("asked[1] cannot be read from offset 18 on: its batch goes from 17 to 21, 1012 bytes, zstd")
    assert words.endswith("positions skip --target 'asked[1]' --to 22`")
    assert made.words() == words


def test_nobody_need_tell_how_far_it_goes() -> None:
    def look(_source: Input, _offset: int) -> Header:
        raise TimeoutError("no answer")

    words = Unreadable("tally", look).note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert "is not known (TimeoutError: no answer)" in words
    assert "--to OFFSET" in words


def test_it_is_left_alone_for_a_while_and_forgotten_with_its_owner() -> None:
    clock = Clock()
    made = Unreadable("tally", lambda _source, _offset: None, clock)
    made.note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert (made.held({SOURCE: 18}), made.due(), SOURCE in made) == ({SOURCE}, None, True)
    clock.now = AGAIN_SECONDS
    assert (made.due(), made.due(), made.held({SOURCE: 18}), made.words()) == (SOURCE, None, set(), "")
    made.note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert (made.held({}), SOURCE in made) == (set(), False)


def test_what_lies_before_it_is_fetched_again_after_a_recovery() -> None:
    made = Unreadable("tally", lambda _source, _offset: None)
    made.note(SOURCE, 18, KafkaError(KafkaError._BAD_COMPRESSION))
    assert (made.held({SOURCE: 17}), SOURCE in made) == (set(), False)


class Message:
    """A record, or what the client says instead of one."""

    def __init__(self, offset: int, error: int | None = None) -> None:
        self._offset = offset
        self._error = None if error is None else KafkaError(error)

    def topic(self) -> str:
        """Return the source's."""
        return SOURCE.topic

    def partition(self) -> int:
        """Return the source's."""
        return SOURCE.partition

    def offset(self) -> int:
        """Return its offset."""
        return self._offset

    def error(self) -> KafkaError | None:
        """None for a record."""
        return self._error

    def key(self) -> bytes:
        """Return any key."""
        return b""

    value = headers = key


class Client:
    """A consumer that has fetched two records and the batch behind them, which it cannot read."""

    def __init__(self) -> None:
        bad = KafkaError._BAD_COMPRESSION
        self._fetched = [Message(16), Message(17), Message(18, bad), Message(18, bad)]
        self.paused: list[Input] = []

    def poll(self, _seconds: float) -> Message:
        """Return the next message."""
        return self._fetched.pop(0)

    def consume(self, _most: int, _seconds: float) -> list[Message]:
        """Return all others."""
        return self._fetched

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Fetch no more of the partitions."""
        self.paused += [Input(p.topic, p.partition) for p in partitions]

    def memberid(self) -> str:
        """Return no member's."""
        return ""


def test_what_was_fetched_before_it_is_handled() -> None:
    """Otherwise the command that passes over the batch would pass over these too, for good."""
    member = GroupMember.__new__(GroupMember)
    made: Any = member
    looked: list[int] = []
    made._unreadable = Unreadable("tally", lambda _source, offset: looked.append(offset))
    made._reading, made._consumer, made._owned, made._changed = {SOURCE}, Client(), NOTHING, False
    polled = member.poll(10, 0)
    assert [record.offset for record in polled.records] == [16, 17]
    assert (made._consumer.paused, looked) == ([SOURCE], [18])
    assert "cannot be read from offset 18 on" in member.unreadable
