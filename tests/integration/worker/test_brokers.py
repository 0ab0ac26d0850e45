"""Brokers die one after the other: the worker says what its topics lack, and the alerts fire."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import ClusterServers, running_cluster
from dev.servers.places import free_port
from shared.testing import until
from tests.alerts import PROMTOOL, firing
from tests.faults.stage import Stage, Worker
from tests.integration.worker.pages import shown, values

pytestmark = [pytest.mark.proof, pytest.mark.timeout(480)]  # three brokers start, and one once more

PARTITIONS = 3
COPIES = 2
"""Two of three brokers have each partition, and both must have what is acknowledged. So one broker less is too few, and
without the second some partitions have nobody.
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """Three brokers."""
    with running_cluster() as servers:
        yield servers


def lacking(worker: Worker) -> dict[str, float]:
    """Return how many partitions of its topics are in which trouble; nothing of what is not known."""
    found = re.findall(r"^exactly_once_kafka_partitions_(\w+){[^}]*} (\S+)$", shown(worker), re.MULTILINE)
    return {name: sum(float(value) for of, value in found if of == name) for name, _ in found}


def fires(worker: Worker, place: Path) -> set[str]:
    """Return the alerts of this file that fire."""
    return {alert for alert in firing(shown(worker), place) if alert.startswith("Partitions")}


SOUND = {"under_replicated": 0.0, "offline": 0.0, "below_min_isr": 0.0}


@pytest.mark.timeout(240)
def test_the_worker_says_what_its_topics_lack(cluster: ClusterServers, tmp_path: Path) -> None:
    with Stage(cluster, tmp_path, partitions=PARTITIONS, replication_factor=COPIES) as stage:
        worker = stage.worker(metrics_port=free_port())
        stage.ask()
        stage.until_drained()
        until(lambda: lacking(worker) == SOUND, "nothing is wrong, and it is known how many must be in sync")
        topics = {stage.kit.asked.topic, stage.kit.told.topic, stage.kit.service.lane_topic}
        page = shown(worker)
        assert topics <= set(re.findall(r'^exactly_once_kafka_partitions_offline{topic="(.+?)"}', page, re.MULTILINE))
        if PROMTOOL:
            assert fires(worker, tmp_path) == set()
        connected = "exactly_once_kafka_broker_connected"
        until(lambda: values(worker, connected) == [1.0] * 3, "each broker leads something, and is connected")

        first, second, third = cluster.kafka.brokers
        first.kill()
        until(lambda: lacking(worker).get("under_replicated", 0) > 0, "a replica is missing")
        until(lambda: lacking(worker).get("below_min_isr", 0) > 0, "so nobody publishes there")
        until(lambda: sum(values(worker, connected)) == 2, "its connection is gone")
        assert lacking(worker)["offline"] == 0, "others lead what it led"
        if PROMTOOL:
            assert fires(worker, tmp_path) == {"PartitionsUnderReplicated", "PartitionsBelowMinIsr"}

        second.kill()
        until(lambda: lacking(worker).get("offline", 0) > 0, "nobody is left that could lead")
        if PROMTOOL:
            assert "PartitionsOffline" in fires(worker, tmp_path)

        third.kill()
        until(lambda: lacking(worker) == {}, "nobody tells anything, so nothing is shown")

        cluster.kafka.start()
        cluster.kafka.until_whole()
        until(lambda: lacking(worker) == SOUND, "all is well again")
        stage.ask()
        stage.until_drained()
        stage.stop()
        assert stage.problems() == []
