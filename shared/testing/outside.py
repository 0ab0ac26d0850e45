"""The view of a Kafka client that knows nothing of the library: records, ends and committed offsets."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple, cast

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from .waiting import SECONDS_MAX

ELECTING = (
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
)
"""A partition's leader is being elected, or not yet known to all."""


class Published(NamedTuple):
    """One record as a read_committed reader sees it."""

    topic: str
    partition: int
    offset: int
    key: str
    event_id: str
    type: str
    data: bytes
    headers: dict[str, str]


@cache
def admin(bootstrap: str) -> AdminClient:
    """An admin client."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def reader(bootstrap: str, group: str, **more: Any) -> Consumer:
    """A consumer that commits nothing and reads committed records."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "log_level": 0,
            **more,
        }
    )


def follow(bootstrap: str, topic: str, partitions: int, go_on: Callable[[set[int]], bool]) -> Iterator[Published]:
    """Read a topic from its beginning while `go_on` returns true; it gets the partitions that are read to their end.
    Waits for a broker that is down.
    """
    more = {"auto.offset.reset": "error", "enable.partition.eof": True, "fetch.wait.max.ms": 10}
    with closing(reader(bootstrap, f"{topic}-reader", **more)) as consumer:
        consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        ended: set[int] = set()
        while go_on(ended):
            message = consumer.poll(0.1)
            if message is None:
                continue
            partition, problem = message.partition() or 0, message.error()
            if problem is None:
                ended.discard(partition)
                yield published(message)
            elif problem.code() == KafkaError._PARTITION_EOF:
                ended.add(partition)
            else:
                assert problem.retriable() or problem.code() in AWAY, problem


AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT)


def read(bootstrap: str, topic: str, partitions: int) -> list[Published]:
    """Read a topic from its beginning to its end."""
    deadline = time.monotonic() + SECONDS_MAX

    def go_on(ended: set[int]) -> bool:
        assert time.monotonic() < deadline, f"{topic} was not read to its end"
        return len(ended) < partitions

    return list(follow(bootstrap, topic, partitions, go_on))


def published(message: Any) -> Published:
    """Convert a record to a value."""
    head = {name: value.decode() for name, value in cast("list[tuple[str, bytes]]", message.headers())}
    key, value = message.key(), message.value()
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    place = (message.topic(), message.partition(), message.offset())
    return Published(*place, key.decode(), head["ce_id"], head["ce_type"], value, head)


def ends(bootstrap: str, topic: str, partitions: int, isolation: IsolationLevel) -> dict[int, int]:
    """Return each partition's end: the last stable offset for READ_COMMITTED, else the high watermark."""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(topic, p): latest for p in range(partitions)}
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        # A new client each time: a client caches leader epochs, which are outdated after an election.
        client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        answers = client.list_offsets(asked, isolation_level=isolation)
        try:
            return {p.partition: answer.result(SECONDS_MAX).offset for p, answer in answers.items()}
        except KafkaException as error:
            # A broker that was frozen, or just started, learns the epochs later than its clients.
            if error.args[0].code() not in ELECTING or time.monotonic() > deadline:
                raise


def committed(bootstrap: str, group: str, topic: str, partitions: int) -> dict[int, tuple[int, str]]:
    """Return a group's committed offsets for a topic, with metadata."""
    with closing(reader(bootstrap, group)) as consumer:
        asked = [TopicPartition(topic, p) for p in range(partitions)]
        return {p.partition: (p.offset, p.metadata or "") for p in consumer.committed(asked, SECONDS_MAX)}
