"""Brokers vanish with their names, as restarted containers do: nothing is lost, so no worker stops."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import ClusterServers, running_cluster
from dev.servers.places import free_port
from shared.testing import SECONDS_MAX
from tests.faults.names import Names
from tests.faults.stage import Stage, Worker, admin

pytestmark = pytest.mark.proof

PARTITIONS = 3

DEAD_MS = 20_000
"""How long a vanished broker still leads: enough for some moves."""

MOVES = 3
"""How often the lanes move meanwhile. A client asks only sometimes just while the name is looked up: with one move, the
test saw a worker take its answer for a loss one time in three.
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """Three brokers that clients know by name."""
    with running_cluster(kafka_settings={"broker.session.timeout.ms": str(DEAD_MS)}) as servers:
        yield servers


def leaders(stage: Stage) -> set[int]:
    """Return the brokers that lead lanes."""
    topic = stage.kit.service.lane_topic
    partitions = admin(stage.servers).list_topics(topic, SECONDS_MAX).topics[topic].partitions
    return {int(partition.leader) for partition in partitions.values()}


def coordinator(stage: Stage) -> int:
    """Return the broker that coordinates the group."""
    found = admin(stage.servers).describe_consumer_groups([stage.name])[stage.name].result(SECONDS_MAX)
    return int(found.coordinator.id)


@pytest.mark.timeout(240)
def test_a_broker_that_vanishes_with_its_name_while_lanes_move(cluster: ClusterServers, tmp_path: Path) -> None:
    """It leads lanes for some more seconds, and cannot be asked for their ends."""
    names = Names(tmp_path / "hosts", cluster.kafka.names)
    with Stage(
        cluster,
        tmp_path,
        partitions=PARTITIONS,
        replication_factor=3,
        names=cluster.kafka.named_bootstrap,
        build=names.build(),
    ) as stage:
        stays, leaves = stage.worker(metrics_port=free_port()), stage.worker()
        stage.ask()
        stage.until_drained()
        stage.until_shared(2)
        gone = next(b for b in (1, 2, 3) if b != coordinator(stage) and b in leaders(stage))

        names.forget(f"kafka-{gone}.test")
        broker = cluster.kafka.brokers[gone - 1]
        broker.kill()
        try:
            for _ in range(MOVES):
                leaves.stopped = True
                leaves.send(signal.SIGKILL)
                stage.until_shared(1)
                leaves = stage.worker()
                stage.until_shared(2)
            leaves.stopped = True
            leaves.send(signal.SIGKILL)
            stage.until_shared(1)
            stage.until(lambda: gone not in leaders(stage), "others lead what it led")
            stage.ask()
            stage.request()
            stage.until_drained()
        finally:
            names.know(*cluster.kafka.names)
            broker.start()
            cluster.kafka.until_whole()
        stage.ask()
        stage.until_drained()
        stage.until(lambda: stays.ready()[0] == 200, "it works")
        assert_went_on(stays)
        stage.stop()
        assert stage.problems() == []


def assert_went_on(*workers: Worker) -> None:
    """Check that no worker stopped or ended."""
    assert [worker.restarts for worker in workers] == [0] * len(workers)
    assert [worker for worker in workers if "stopped" in worker.log()] == []
