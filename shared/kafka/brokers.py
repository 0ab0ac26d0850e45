"""Whether the brokers have what a service's topics need: leaders, and enough replicas in sync.

Only the service's own topics are looked at. Of the controller nothing is shown: in its place the brokers of Kafka 4
name any broker that is alive, another one each time, and go on when the controller is killed (KIP-590, KAFKA-17404).
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from confluent_kafka import KafkaException
from confluent_kafka._model import Node, TopicPartitionInfo
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from ..telemetry import metrics

LEAST_SECONDS = 60.0
"""How often `min.insync.replicas` is asked for: it hardly ever changes."""

ANSWER_SECONDS = 4.0
"""Timeout of that request."""

LEAST = "min.insync.replicas"


class Brokers:
    """What is known of the topics of a service."""

    def __init__(self) -> None:
        self._least: dict[str, int] = {}
        """The least replicas in sync that each topic needs; those that the brokers do not tell us are left out."""
        self._asked = float("-inf")
        self._topics: list[str] = []

    def see(self, topics: Mapping[str, Sequence[TopicPartitionInfo]]) -> None:
        """Show the state of the partitions of `topics`, as the brokers have just described them."""
        self._topics = sorted(topics)
        metrics.OFFLINE.show({(topic,): float(sum(map(_is_offline, found))) for topic, found in topics.items()})
        metrics.UNDER_REPLICATED.show(
            {(topic,): float(sum(len(p.isr) < len(p.replicas) for p in found)) for topic, found in topics.items()}
        )
        metrics.BELOW_MIN_ISR.show(
            {
                (topic,): float(sum(len(p.isr) < self._least[topic] for p in found))
                for topic, found in topics.items()
                if topic in self._least
            }
        )

    def ask(self, client: AdminClient) -> None:
        """Ask for what hardly ever changes, once in a while. Without an answer the last one still holds."""
        if not self._topics or time.monotonic() - self._asked < LEAST_SECONDS:
            return
        self._asked = time.monotonic()
        resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in self._topics]
        for resource, answer in client.describe_configs(resources, request_timeout=ANSWER_SECONDS).items():
            with suppress(KafkaException, TimeoutError, KeyError, TypeError, ValueError):
                self._least[resource.name] = int(answer.result(2 * ANSWER_SECONDS)[LEAST].value)


def _is_offline(partition: TopicPartitionInfo) -> bool:
    leader: Node | None = partition.leader  # its type does not say that there may be none
    return leader is None or leader.id < 0
