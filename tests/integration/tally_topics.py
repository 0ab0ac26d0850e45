"""The Kafka half of the small service's stage: events asked, events consumed, and damage."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from shared.kafka import topics
from shared.kafka.producer import IN_ORDER
from shared.service import Service
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until
from tests.faults.trail import Asked, Told


class Topics:
    """The topics and the group of one service."""

    name: str
    service: Service
    asked: type[Asked]
    told: type[Told]
    settings: Settings
    admin: AdminClient

    def move(self, bootstrap: str) -> None:
        """Use another Kafka from now on."""
        self.settings = self.settings.model_copy(update={"kafka_bootstrap_servers": bootstrap})
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic, and wait until its broker knows them: its controller knows them earlier."""
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(SECONDS_MAX)
        asked = TopicCollection([topic])
        until(
            lambda: len(self.admin.describe_topics(asked)[topic].result(SECONDS_MAX).partitions) == partitions,
            f"{topic} has {partitions} partitions",
        )

    @property
    def source(self) -> str:
        """The first input."""
        return f"{self.asked.topic}[0]"

    def committed(self) -> dict[str, tuple[int, str]]:
        """Return the group's committed offsets, by `topic[partition]`, with metadata."""
        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.name)])
        found = asked[self.name].result(SECONDS_MAX).topic_partitions
        return {f"{p.topic}[{p.partition}]": (p.offset, p.metadata or "") for p in found}

    def commit(self, topic: str, partition: int, offset: int, metadata: str = "") -> None:
        """Set a committed offset behind the worker's back."""
        p = TopicPartition(topic, partition, offset, metadata=metadata)
        asked = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(self.name, [p])])
        (answer,) = asked[self.name].result(SECONDS_MAX).topic_partitions
        assert answer.error is None, answer.error

    def forget_group(self) -> None:
        """Delete the group with all its committed offsets."""
        self.admin.delete_consumer_groups([self.name])[self.name].result(SECONDS_MAX)

    def recreate(self, topic: str, partitions: int | None = None) -> None:
        """Delete a topic and create it again."""
        self.admin.delete_topics([topic])[topic].result(SECONDS_MAX)
        settings = self.settings.model_copy(update={"partitions": partitions or self.settings.partitions})
        until(lambda: topics.describe(self.admin, settings, [topic])[topic] is None, f"{topic} is gone")
        topics.create_topics(settings, self.service)

    def ask(self, *numbers: int, key: str = "k", wish: str = "") -> None:
        """Produce numbers for the trail of `key`; while the switch `wish` is on, they fail so."""
        producer = self._producer()
        for number in numbers:
            data = msgspec.json.encode(self.asked(trail=key, number=number, wish=wish and f"while {wish}"))
            producer.produce(self.asked.topic, data, key.encode(), headers=headers(f"asked-{number}"))
        assert producer.flush(SECONDS_MAX) == 0

    def ask_at(self, *times: datetime, partition: int = 0) -> None:
        """Produce a number for each of `times`, as of that time: 1, 2, 3, ..."""
        producer = self._producer()
        for number, at in enumerate(times, 1):
            data = msgspec.json.encode(self.asked(trail="k", number=number))
            told, milliseconds = headers(f"asked-{partition}-{number}"), int(at.timestamp() * 1_000)
            producer.produce(self.asked.topic, data, b"k", partition, timestamp=milliseconds, headers=told)
        assert producer.flush(SECONDS_MAX) == 0

    def produce(self, value: bytes | None, key: bytes | None = b"k", event_headers: Sequence[Any] = ()) -> None:
        """Produce any record."""
        producer = self._producer()
        producer.produce(self.asked.topic, value, key, headers=list(event_headers))
        assert producer.flush(SECONDS_MAX) == 0

    def _producer(self) -> Producer:
        """Make an idempotent one: a retry neither writes twice nor changes the order."""
        return Producer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                **IN_ORDER,
                "partitioner": "consistent",
            }
        )

    def consumed(self, topic: str | None = None) -> list[tuple[int, str]]:
        """Return the numbers that a read_committed reader sees, with their event ids, partition by partition."""
        records = self.read(topic or self.told.topic)
        return [(json.loads(r.value())["number"], dict(r.headers())["ce_id"].decode()) for r in records]

    def numbers(self) -> Counter[int]:
        """Return how often each is consumed."""
        return Counter(number for number, _ in self.consumed())

    def read(self, topic: str) -> list[Any]:
        """Read a topic to its end."""
        reader = Consumer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "group.id": f"{self.name}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            partitions = len(reader.list_topics(topic, SECONDS_MAX).topics[topic].partitions)
            reader.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
            found: list[Any] = []
            ended: set[int | None] = set()
            deadline = time.monotonic() + SECONDS_MAX
            while len(ended) < partitions:
                assert time.monotonic() < deadline
                message = reader.poll(0.1)
                if message is None:
                    continue
                problem = message.error()
                if problem is None:
                    found.append(message)
                else:
                    assert problem.code() == KafkaError._PARTITION_EOF, problem
                    ended.add(message.partition())
        finally:
            reader.close()
        return sorted(found, key=lambda m: (m.partition(), m.offset()))


def headers(event_id: str, event_type: str = "Asked.v1") -> list[tuple[str, str | bytes | None]]:
    """Return the headers of an event from elsewhere."""
    facts = {"ce_specversion": "1.0", "ce_source": "test", "ce_id": event_id, "ce_type": event_type}
    return [(name, fact.encode()) for name, fact in facts.items()]
