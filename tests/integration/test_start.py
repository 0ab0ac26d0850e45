"""What holds before a process works."""

import uuid

from dev.servers import Servers
from shared import access, start
from shared.settings import Settings
from tests.integration.tally import service


def test_topics_that_were_created_are_there_for_whoever_starts_next(servers: Servers) -> None:
    """A broker learns of a new topic a little later than the controller that creates it: much later, while it is busy
    deleting others.
    """
    settings = Settings.model_validate(
        {"kafka_bootstrap_servers": servers.kafka.bootstrap, "database_url": servers.postgres.dsn("nowhere")}
    )
    client = access.admin(settings)
    for _ in range(10):
        made, _asked, _told = service(f"start-{uuid.uuid4().hex[:12]}")
        start.create_topics(settings, made)
        found = start.describe(client, settings, start.needed(made))
        client.delete_topics(start.needed(made))
        assert [name for name, description in found.items() if description is None] == []


def test_the_number_of_replicas_may_be_left_to_the_brokers(servers: Servers) -> None:
    settings = Settings.model_validate(
        {
            "kafka_bootstrap_servers": servers.kafka.bootstrap,
            "database_url": servers.postgres.dsn("nowhere"),
            "replication_factor": 0,
        }
    )
    made, _asked, _told = service(f"start-{uuid.uuid4().hex[:12]}")

    created = start.create_topics(settings, made)

    found = start.describe(access.admin(settings), settings, created)
    assert {len(p.replicas) for d in found.values() if d is not None for p in d.partitions} == {1}
