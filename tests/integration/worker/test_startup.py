"""A process checks its surroundings before it works."""

import uuid

import pytest
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from dev.servers import Servers
from shared.errors import Misconfigured
from shared.kafka import access, topics
from shared.settings import Settings
from shared.testing import SECONDS_MAX
from tests.faults import trail
from tests.faults.mock_cluster import MockCluster


def settings_of(servers: Servers, **more: object) -> Settings:
    """Return settings of a service whose database is not used."""
    given = {"kafka_bootstrap_servers": servers.kafka.bootstrap, "database_url": servers.postgres.dsn("nowhere")}
    return Settings.model_validate({**given, **more})


def test_topics_that_were_created_are_there_for_whoever_starts_next(servers: Servers) -> None:
    """A broker learns of a new topic a little later than its controller: much later while it deletes others."""
    settings = settings_of(servers)
    client = access.admin(settings, trail.make("start").service)
    for _ in range(10):
        made = trail.make(f"start-{uuid.uuid4().hex[:12]}").service
        topics.create_topics(settings, made)
        found = topics.describe(client, settings, topics.needed(made))
        client.delete_topics(topics.needed(made))
        assert [name for name, description in found.items() if description is None] == []


def test_the_number_of_replicas_may_be_left_to_the_brokers(servers: Servers) -> None:
    settings = settings_of(servers, replication_factor=0)
    made = trail.make(f"start-{uuid.uuid4().hex[:12]}").service

    created = topics.create_topics(settings, made)

    found = topics.describe(access.admin(settings, made), settings, created)
    assert {len(p.replicas) for d in found.values() if d is not None for p in d.partitions} == {1}


def test_a_topic_lets_events_pass_that_are_as_large_as_the_setting_says(servers: Servers) -> None:
    """A topic only consumed has its publisher's size limit."""
    settings = settings_of(servers, event_bytes_max=5_000_000)
    kit = trail.make(f"start-{uuid.uuid4().hex[:12]}")
    topics.create_topics(settings, kit.service)

    resources = [ConfigResource(ResourceType.TOPIC, name) for name in (kit.asked.topic, kit.told.topic)]
    client = access.admin(settings, kit.service)  # kept: one that is gone never answers
    found = client.describe_configs(resources)
    limits = [int(found[resource].result(SECONDS_MAX)["max.message.bytes"].value) for resource in resources]
    assert limits == [1_048_588, 5_010_000]


def test_an_old_broker_is_refused(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's mock knows as much as Kafka 3; the real broker is made to look old."""
    made = trail.make("start").service
    given = {"database_url": servers.postgres.dsn("nowhere")}
    with MockCluster() as mock:
        settings = Settings.model_validate({"kafka_bootstrap_servers": mock.bootstrap, **given})
        with pytest.raises(
            Misconfigured, match=r"is older than Kafka 4\.0 \(it knows Produce up to version 10, not 12\)"
        ):
            access.admin(settings, made)

    settings = Settings.model_validate({"kafka_bootstrap_servers": servers.kafka.bootstrap, **given})
    access.admin(settings, made)
    monkeypatch.setattr(access, "PRODUCE_MIN", 99)
    with pytest.raises(Misconfigured, match="KAFKA_BOOTSTRAP_SERVERS"):
        access.admin(settings, made)
