"""Consumes a topic with `read_committed` on a thread of its own, and notes when each record could be read."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

POLL_SECONDS = 0.1
ANSWER_SECONDS = 10.0


class Listener:
    """Calls `consume` with each record that comes after the block was entered, and the time of `time.monotonic`."""

    def __init__(self, bootstrap: str, topic: str, consume: Callable[[Message, float], None]) -> None:
        self._consume = consume
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "bench-listener",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._topic = topic

    def __enter__(self) -> Self:
        partitions = self._consumer.list_topics(self._topic, ANSWER_SECONDS).topics[self._topic].partitions
        found = [TopicPartition(self._topic, number) for number in partitions]
        for partition in found:
            # A number, not "the end": that would be looked up later, and records that come before would be missed.
            _, partition.offset = self._consumer.get_watermark_offsets(partition, ANSWER_SECONDS)
        self._consumer.assign(found)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(ANSWER_SECONDS)
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(POLL_SECONDS)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            self._consume(message, time.monotonic())


def header(message: Message, name: str) -> bytes:
    """Return a header of a record; empty if it has none."""
    headers = dict(message.headers() or [])
    value = headers.get(name) or b""
    return value if isinstance(value, bytes) else value.encode()
