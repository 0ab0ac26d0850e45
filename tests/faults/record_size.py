"""Limits the size of a topic's records, as of now: the controller answers before the brokers have applied it."""

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from shared.testing import SECONDS_MAX, outside, until

AROUND_BYTES = 200
"""At least what a batch of one record needs besides its value."""


def limit(bootstrap: str, topic: str, size: int) -> None:
    """Let `topic` take batches up to `size` bytes and no larger ones, and wait until each partition does so."""
    admin = outside.admin(bootstrap)
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([change]).values():
        done.result(SECONDS_MAX)
    for partition in admin.list_topics(topic, SECONDS_MAX).topics[topic].partitions:
        takes = partial(_takes, bootstrap, topic, partition)
        until(partial(takes, size - AROUND_BYTES), "as large as that is taken")
        until(partial(_refuses, takes, size + 1), "a larger one is refused")


def _refuses(takes: Callable[[int], bool], size: int) -> bool:
    return not takes(size)


def _takes(bootstrap: str, topic: str, partition: int, size: int) -> bool:
    """Try, in a transaction that is aborted, whether a value of `size` bytes is taken."""
    errors: list[KafkaError | None] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        errors.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": f"{topic}-size",
            "message.max.bytes": max(1_000_000, 2 * size),
            "log_level": 0,
        }
    )
    producer.init_transactions(SECONDS_MAX)
    producer.begin_transaction()
    producer.produce(topic, b"x" * size, partition=partition, on_delivery=delivered)
    producer.flush(SECONDS_MAX)
    producer.abort_transaction(SECONDS_MAX)
    (error,) = errors
    assert error is None or error.code() == KafkaError.MSG_SIZE_TOO_LARGE, error
    return error is None
