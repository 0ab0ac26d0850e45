"""The Kafka port of a replay: the windows of its inputs, assigned by hand, and nothing that could be published.

It joins no group and commits no offsets; the group of the workers does not notice it.
"""

import time
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from ..errors import CommandFailed, KafkaUnavailable
from ..kafka.access import not_permitted
from ..kafka.consumer import OUT_OF_RANGE, headers
from ..protocol.ports import Assignment, Committed, Input, Polled, Record
from .maintenance import Context
from .reading import configuration

HERE = "a replay"
"""Stands for the group's metadata, which a share needs."""


class Windows:
    """Reads inputs up to fixed ends. Implements `shared.protocol.ports.Kafka`."""

    def __init__(self, context: Context, ends: Mapping[Input, int]) -> None:
        # A next offset that does not exist is an error, never a guess.
        self._consumer = Consumer(configuration(context) | {"auto.offset.reset": "error"})
        self._ends = dict(ends)
        self._left: set[Input] = set()
        """What is still read."""
        self._assigned: Assignment | None = Assignment(frozenset(ends), frozenset())

    def poll(self, records: int, seconds: float) -> Polled:
        assigned, self._assigned = self._assigned, None
        found: list[Record] = []
        ends: dict[Input, int] = {}
        if not self._left and assigned is None:
            time.sleep(seconds)
        for message in self._consumer.consume(records, seconds) if self._left else ():
            source, offset = Input(message.topic() or "", message.partition() or 0), message.offset() or 0
            if source not in self._left:
                continue  # it came after the end
            if (problem := message.error()) is None:
                if offset < self._ends[source]:
                    found.append(Record(source, offset, message.key(), message.value(), headers(message)))
                offset += 1
            elif problem.code() != KafkaError._PARTITION_EOF:
                raise _failed(source, message, problem)
            if offset >= self._ends[source]:
                ends[source] = self._ends[source]
                self._left.discard(source)
                self._consumer.pause([TopicPartition(*source)])
        return Polled(found, ends, assigned, HERE)

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:  # noqa: ARG002
        return {}  # the group's are the workers'

    def read_from(self, positions: Mapping[Input, int], lanes: Collection[int]) -> None:  # noqa: ARG002
        self._left = {source for source, offset in positions.items() if offset < self._ends[source]}
        self._consumer.assign([TopicPartition(*source, positions[source]) for source in sorted(self._left)])

    def pause(self, inputs: Collection[Input]) -> None:
        self._consumer.pause([TopicPartition(*source) for source in self._left.intersection(inputs)])

    def resume(self, inputs: Collection[Input]) -> None:
        self._consumer.resume([TopicPartition(*source) for source in self._left.intersection(inputs)])

    def _never(self, *_given: Any, **_named: Any) -> NoReturn:
        raise NotImplementedError("a replay publishes nothing")

    beginning = renew = begin = produce = send_offsets = commit = confirm = _never

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()


def _failed(source: Input, message: Message, problem: KafkaError) -> Exception:
    if problem.code() in OUT_OF_RANGE:
        return CommandFailed(
            f"{source}: there is no record {message.offset()} any more ({problem.str()}): retention removed it while "
            "it was to be read. Drop the schema, and begin again at what is left"
        )
    unavailable = KafkaUnavailable(f"{source} cannot be read at {message.offset()}: {problem.name()}: {problem.str()}")
    return not_permitted(problem, source.topic) or unavailable
