"""A worker stops at its start for a recreated topic or another cluster, and goes on after a decision."""

from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared.errors import DatabaseWentBack, LanesDiffer, Misconfigured, OtherCluster, PositionMissing
from shared.kafka import topics
from shared.operations import diagnosis
from shared.testing import SECONDS_MAX, until
from tests.integration.operations.test_positions import decide, stop, twice
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def test_a_topic_that_is_consumed(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1, 2, 3)
    tallies.work()
    tallies.recreate(tallies.asked.topic)
    tallies.ask(4, 5)

    stop(tallies, OtherCluster, tallies.asked.topic, "created again")
    # The next offset is 3 and the new topic ends at 2, which would be KafkaWentBack, were it the same topic.
    capsys.readouterr()
    assert tallies.run("positions show") == 1
    shown = capsys.readouterr().out
    assert "KafkaWentBack" not in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith(tallies.source)]
    assert row[1:] == ["3", "0", "-", "0", "2", "-", "OtherCluster"], "there is no lag in another log"
    assert f"positions adopt --target {tallies.asked.topic}`" in shown.splitlines()[-1]
    (found,) = diagnosis.diagnose(
        create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool), tallies.settings, tallies.service
    )
    assert isinstance(found, OtherCluster)
    # Its positions cannot be decided before it is: they are offsets of another topic.
    assert tallies.run(f"positions skip --target {tallies.source} --to 1 --yes") == 1
    assert "created again: decide that first" in capsys.readouterr().err
    decide(tallies, "adopt", tallies.asked.topic)

    assert tallies.handled() == (0, 1)
    tallies.work()
    assert tallies.effects() == [1, 2, 3, 4, 5]
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    # 4 has the offset that 1 had; the epoch makes another id of it, or downstream would drop it as a duplicate.
    ids = {
        number: event_id.removeprefix(f"{tallies.name}:{tallies.asked.topic}")
        for number, event_id in tallies.consumed()
    }
    assert (ids[1], ids[4]) == ("-0.0.0.Told.0", "-0.1.0.Told.0")


def test_a_topic_that_is_consumed_whose_offsets_came_back(tallies: Tallies) -> None:
    """Kafka forgets a deleted topic's offsets; if it keeps one, that must not look like an older database."""
    tallies.ask(1, 2, 3)
    tallies.work()
    tallies.recreate(tallies.asked.topic)
    tallies.commit(tallies.asked.topic, 0, 3)
    tallies.ask(4)

    decide(tallies, "adopt", tallies.asked.topic)

    assert tallies.committed()[tallies.source] == (0, "")
    tallies.work()
    assert tallies.effects() == [1, 2, 3, 4]


def test_a_topic_that_is_published_on(tallies: Tallies) -> None:
    tallies.ask(1)
    tallies.work(die="unpublished")
    tallies.recreate(tallies.told.topic)

    stop(tallies, OtherCluster, tallies.told.topic)
    decide(tallies, "adopt", tallies.told.topic)

    tallies.work()
    assert tallies.numbers() == {1: 1}


@pytest.mark.parametrize("choice", ["adopt", "rewind", "skip"])
def test_the_topic_of_the_lanes(tallies: Tallies, choice: str) -> None:
    tallies.ask(1)
    tallies.work(die="published")
    tallies.recreate(tallies.service.lane_topic)

    stop(tallies, OtherCluster, tallies.service.lane_topic)
    decide(tallies, "adopt", tallies.service.lane_topic)
    stop(tallies, PositionMissing, "lane 0")
    decide(tallies, choice, "lane-0")

    tallies.work()
    assert set(tallies.numbers()) == {1}
    assert twice(tallies) == ({1} if choice == "rewind" else set())


def test_the_topic_of_the_lanes_with_fewer_partitions(servers: Servers) -> None:
    with Tallies(servers, partitions=2) as tallies:
        keys = ("k1", "k2", "k3", "k4")
        for number, key in enumerate(keys):
            tallies.request(number, key=key)
        tallies.work()
        tallies.request(10, key="k1")
        tallies.settings = tallies.settings.model_copy(update={"partitions": 1})
        stop(tallies, LanesDiffer, "has 2 partitions, the database has 2 lanes")
        assert tallies.run("lanes resize --yes") == 1  # Kafka takes no partition away

        tallies.recreate(tallies.service.lane_topic)
        decide(tallies, "adopt", tallies.service.lane_topic)
        assert tallies.run("positions adopt --target lanes --yes") == 0
        assert tallies.run("lanes resize --yes") == 0

        assert tallies.sql("SELECT count(*) FROM exactly_once_lane") == [1]
        tallies.request(11, key="k2")
        tallies.work()
        assert tallies.numbers() == {0: 1, 1: 1, 2: 1, 3: 1, 10: 1, 11: 1}


def test_another_cluster(servers: Servers, breakable_servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    with Tallies(servers) as tallies:
        tallies.ask(1, 2)
        tallies.work(die="published")
        old = tallies.admin
        tallies.move(breakable_servers.kafka.bootstrap)
        topics.create_topics(tallies.settings, tallies.service)
        tallies.ask(3, 4)

        stop(tallies, OtherCluster, "KAFKA_BOOTSTRAP_SERVERS leads to")
        capsys.readouterr()
        assert tallies.run("positions show") == 1
        shown = capsys.readouterr().out
        assert "KAFKA_BOOTSTRAP_SERVERS leads to" in shown
        assert "OtherCluster" in shown
        assert "PositionMissing" not in shown, "nothing is compared with what another cluster says"
        # The lane must not be compared with what another cluster does not know.
        assert tallies.run("positions rewind --target lane-0 --yes") == 1
        assert "the positions belong to cluster" in capsys.readouterr().err
        decide(tallies, "adopt", "cluster")
        for topic in topics.needed(tallies.service):
            stop(tallies, OtherCluster, f"topic {topic} ")
            decide(tallies, "adopt", topic)
        stop(tallies, PositionMissing, "lane 0")
        decide(tallies, "adopt", "lane-0")

        tallies.work()
        assert tallies.effects() == [1, 2, 3, 4]
        # The rows that the old cluster has are not in the new one: adopt publishes them here.
        assert tallies.numbers() == {1: 1, 2: 1, 3: 1, 4: 1}
        for future in old.delete_topics(topics.needed(tallies.service)).values():
            future.exception(10)


def test_a_new_empty_database(tallies: Tallies) -> None:
    tallies.ask(1, 2, 3)
    tallies.work()
    tallies.make_database_anew()

    stop(tallies, PositionMissing, tallies.source, "no position")
    decide(tallies, "rewind", tallies.source)
    stop(tallies, DatabaseWentBack, "lane 0")
    decide(tallies, "adopt", "lane-0")

    tallies.work()
    assert tallies.effects() == [1, 2, 3]
    assert twice(tallies) == {1, 2, 3}


def test_only_its_own_topics_are_created_and_the_owners_of_the_others_are_named(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = tallies.told.topic, tallies.asked.topic
    for removed in tallies.admin.delete_topics([mine, theirs]).values():
        removed.result(SECONDS_MAX)
    until(lambda: topics.missing(tallies.settings, tallies.service) == [theirs, mine], "they are gone")

    assert tallies.run("topics") == 0

    output = capsys.readouterr().out
    assert f"created {mine}\n" in output
    assert f"{tallies.name} only consumes {theirs}; the service that publishes on it creates it" in output
    assert f"judging by the name, {tallies.name}: `python -m services.{tallies.name} topics`" in output
    assert topics.missing(tallies.settings, tallies.service) == [theirs]
    with pytest.raises(Misconfigured, match="only consumes"):
        tallies.work()

    assert tallies.run("topics --consumed") == 0
    assert capsys.readouterr().out == f"created {theirs}\n"
    assert tallies.run("topics") == 0
    assert capsys.readouterr().out == "all topics exist\n"
