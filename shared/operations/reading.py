"""Read topics as any read_committed consumer would, without joining a group, up to ends fixed beforehand."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from ..errors import KafkaUnavailable
from ..kafka.consumer import RECEIVE_BYTES_MAX
from ..protocol.ports import Input
from .maintenance import Context

PORTION = 5_000
"""Messages consumed at once: a few MB."""

POLL_SECONDS = 0.2
"""How long to wait for a portion."""

FIRST_SECONDS = 10.0
"""How long `times` waits; it takes some milliseconds."""


class Reading:
    """One reading of `ranges`: each partition's first offset and end."""

    def __init__(
        self, context: Context, ranges: Mapping[Input, tuple[int, int]], *, removed: Literal["error", "earliest"]
    ) -> None:
        # Retention may remove the beginning during the reading: go on behind it, or not.
        self._configuration = configuration(context) | {"auto.offset.reset": removed}
        self._reached = {source: first for source, (first, end) in ranges.items() if first < end}
        self._first = dict(self._reached)
        self._ends = {source: end for source, (_, end) in ranges.items()}
        self.left = set(self._reached)
        """The partitions whose end is not reached yet; to give one up, remove it."""
        self.silent_since = time.monotonic()

    @property
    def passed(self) -> int:
        """How many offsets were passed."""
        return sum(self._reached[source] - first for source, first in self._first.items())

    def portions(self) -> Iterator[list[tuple[Input, int, Message]]]:
        """Yield records below the ends with their places, in order within each partition; an empty list if none came
        for `POLL_SECONDS`. Raises `KafkaUnavailable`.
        """
        with closing(Consumer(self._configuration)) as consumer:
            consumer.assign([TopicPartition(*source, offset) for source, offset in self._first.items()])
            while self.left:
                found = []
                for message in consumer.consume(PORTION, POLL_SECONDS):
                    source, offset = Input(message.topic() or "", message.partition() or 0), message.offset() or 0
                    if source not in self.left:
                        continue  # arrived after the end was fixed
                    problem = message.error()
                    if problem is None:
                        if offset < self._ends[source]:
                            found.append((source, offset, message))
                        offset += 1
                    elif problem.code() != KafkaError._PARTITION_EOF:
                        raise KafkaUnavailable(f"{source} cannot be read: {problem.name()}: {problem.str()}")
                    # The end is reported only once everything before it is settled, control markers included.
                    self._reach(consumer, source, offset)
                yield found

    def _reach(self, consumer: Consumer, source: Input, offset: int) -> None:
        if offset > self._reached[source]:
            self.silent_since = time.monotonic()
        self._reached[source] = max(self._reached[source], min(offset, self._ends[source]))
        if offset >= self._ends[source]:
            self.left.discard(source)
            consumer.pause([TopicPartition(*source)])


def times(context: Context, places: Mapping[Input, int]) -> dict[Input, float]:
    """Return the time of each partition's first record from the given offset on, committed or not, in seconds since
    1970 by the clock of its producer or broker; those that have none are left out. Raises `KafkaUnavailable`.
    """
    found: dict[Input, float] = {}
    if not places:
        return found
    wanted = configuration(context) | {
        "isolation.level": "read_uncommitted",
        "auto.offset.reset": "earliest",
    }
    deadline = time.monotonic() + FIRST_SECONDS
    with closing(Consumer(wanted)) as consumer:
        consumer.assign([TopicPartition(*source, offset) for source, offset in places.items()])
        left = set(places)
        while left:
            if time.monotonic() > deadline:
                raise KafkaUnavailable(f"nothing arrives from {_names(left)}")
            for message in consumer.consume(1, POLL_SECONDS):
                source, problem = Input(message.topic() or "", message.partition() or 0), message.error()
                if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                    raise KafkaUnavailable(f"{source} cannot be read: {problem.name()}: {problem.str()}")
                milliseconds = message.timestamp()[1] if problem is None else 0
                if source in left and milliseconds > 0:
                    found[source] = milliseconds / 1_000
                left.discard(source)
                consumer.pause([TopicPartition(*source)])
    return found


def _names(sources: Collection[Input]) -> str:
    return ", ".join(str(source) for source in sorted(sources))


def configuration(context: Context) -> dict[str, Any]:
    return {
        **context.settings.kafka(),
        "group.id": context.service.name,  # the client requires one; it is not joined
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
        # At the default of 1 s a consumer pauses that long whenever its queue was full.
        "fetch.queue.backoff.ms": 5,
        "queued.max.messages.kbytes": 16_000,
        "receive.message.max.bytes": RECEIVE_BYTES_MAX,
        "log_level": 0,
    }
