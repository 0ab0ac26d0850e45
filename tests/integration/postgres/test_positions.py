"""Where Kafka and Postgres disagree, a worker process stops: it stays alive, is not ready, says what to decide, and
goes on after the decision.

tests/integration/operations has each disagreement, and what each command does about it.
"""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from confluent_kafka.cimpl import NewPartitions

from dev.servers import Servers
from dev.servers.places import free_port
from shared import command
from shared.kafka import topics
from shared.telemetry import metrics
from shared.testing import SECONDS_MAX
from shared.worker import topic_watch
from tests.faults import trail
from tests.faults.stage import Stage, admin


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    """A service that has worked; its workers are gone, and their group is empty."""
    with Stage(servers, tmp_path) as stage:
        stage.worker(leave_group_on_shutdown=True)
        for _ in range(3):
            stage.ask()
            stage.request()
            stage.until_drained()
        stage.until_reported()
        stage.stop()
        stage.until(lambda: stage.members() == 0, "the group is empty")
        yield stage
        stage.show()


def copy(stage: Stage, name: str, template: str) -> None:
    """Copy a database; no session may be connected to the original, so the stage's is closed meanwhile."""
    stage.connection.close()
    stage.servers.postgres.create_database(name, template=template)


def restored(stage: Stage) -> None:
    """Restore the database from a backup made before the last events."""
    backup = f"{stage.name}-backup"
    copy(stage, backup, stage.name)
    stage.reconnect()
    stage.worker(leave_group_on_shutdown=True)
    stage.ask()
    stage.until_drained()
    stage.until_reported()
    stage.stop()
    stage.servers.postgres.drop_database(stage.name)
    copy(stage, stage.name, backup)
    stage.reconnect()
    stage.servers.postgres.drop_database(backup)


def recreate(stage: Stage, topic: str) -> None:
    """Delete a topic, and create it again."""
    admin(stage.servers).delete_topics([topic])[topic].result(SECONDS_MAX)
    stage.until(lambda: topics.create_topics(stage.settings, stage.kit.service) == [topic], "the topic is there again")


def test_a_worker_that_stops_stays_alive_says_what_to_decide_and_goes_on_by_itself(stage: Stage) -> None:
    restored(stage)
    effects = stage.one("SELECT count(*) FROM effect")
    worker = stage.worker(metrics_port=free_port())
    stage.request()
    stage.until(lambda: "stopped: DatabaseWentBack" in worker.ready()[1], "the worker stops")
    status, reason = worker.ready()
    assert status == 503
    assert f"python -m services.{stage.name} positions rewind --target" in reason
    assert "error=DatabaseWentBack" in worker.log()
    assert worker.running
    stage.until(lambda: stage.members() == 0, "it has left the group")
    assert stage.one("SELECT count(*) FROM effect") == effects, "it handles nothing"

    decide(stage, "rewind", "inputs")
    decide(stage, "adopt", "lanes")
    stage.until(lambda: worker.ready()[0] == 200, "it goes on by itself")
    assert "resumed" in worker.log()
    assert worker.restarts == 0
    stage.stop()


@pytest.mark.parametrize("which", ["consumed", "published"])
def test_a_topic_that_is_created_again_is_noticed_while_workers_run(stage: Stage, which: str) -> None:
    """A worker that only publishes there notices too, not only at its next start."""
    assert topic_watch.LOOK_SECONDS < 30, "within a minute"
    worker = stage.worker(metrics_port=free_port())
    stage.until(lambda: worker.ready()[0] == 200, "it works")
    topic = stage.kit.asked.topic if which == "consumed" else stage.kit.told.topic
    recreate(stage, topic)
    stage.until(lambda: f"stopped: OtherCluster: topic {topic} " in worker.ready()[1], "it notices")
    decide(stage, "adopt", topic)
    stage.until(lambda: worker.ready()[0] == 200, "it goes on by itself")
    stage.stop()


def decide(stage: Stage, choice: str, source: str) -> None:
    """Run an operator's command while a worker is stopped."""
    built = trail.build(stage.name, stage.settings)
    try:
        with mock.patch.object(metrics, "configure"):
            assert command.run(built, ["positions", choice, "--target", source, "--yes"]) == 0
    finally:
        built.engine().dispose()


def test_lanes_that_differ_from_the_setting(stage: Stage) -> None:
    worker = stage.worker(partitions=3, metrics_port=free_port())
    stage.until(lambda: "PARTITIONS is 3" in worker.ready()[1], "the worker stops")
    assert "has 2 partitions, the database has 2 lanes" in worker.ready()[1]
    stage.stop()


def test_more_partitions_of_what_is_consumed_are_welcome(stage: Stage) -> None:
    """The topics are another service's."""
    topic = stage.kit.asked.topic
    admin(stage.servers).create_partitions([NewPartitions(topic, 3)])[topic].result(SECONDS_MAX)
    worker = stage.worker(metrics_port=free_port())
    stage.ask()
    stage.until_drained()
    assert worker.ready()[0] == 200
    stage.until(lambda: "3 inputs" in worker.ready()[1], "it reads all three")
    stage.stop()
