"""Three brokers: what is acknowledged is on two of them, and one may be lost."""

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from dev.compose import ComposeSystem
from tests.compose.conftest import PROJECT
from tests.compose.orders import order_and_see_it_confirmed

ANSWER_SECONDS = 30.0
BROKERS = ("kafka-1", "kafka-2", "kafka-3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[ComposeSystem]:
    with ComposeSystem(PROJECT, cluster=True) as started:
        yield started


def test_every_topic_has_three_replicas_and_needs_two(cluster: ComposeSystem) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    order_and_see_it_confirmed(cluster)  # so that the topics of groups and transactions are there too

    known = admin.list_topics(timeout=ANSWER_SECONDS)

    assert sorted(known.brokers) == [1, 2, 3]
    assert {"order.events", "inventory.outbox", "__consumer_offsets", "__transaction_state"} <= set(known.topics)
    partitions = [partition for topic in known.topics.values() for partition in topic.partitions.values()]
    assert {len(partition.replicas) for partition in partitions} == {3}
    assert {partition.leader for partition in partitions} == {1, 2, 3}
    for name, future in admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in known.topics]
    ).items():
        settings = future.result(ANSWER_SECONDS)
        assert settings["min.insync.replicas"].value == "2", name
        assert settings["unclean.leader.election.enable"].value == "false", name


@pytest.mark.parametrize("broker", BROKERS)
def test_orders_are_confirmed_while_any_one_broker_is_down(cluster: ComposeSystem, broker: str) -> None:
    cluster.docker.compose("kill", broker)  # for Docker the wish of an operator: it stays down
    try:
        order_and_see_it_confirmed(cluster)
    finally:
        cluster.docker.compose("up", "--wait", seconds=600)
    assert all(map(cluster.is_ready, BROKERS))
