"""A row that Kafka refuses stops its lane. It is shown, set aside, and published once Kafka takes it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dev.servers import Servers
from shared.errors import ContentStuck
from tests.faults import record_size
from tests.integration.operations.test_positions import stop
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def allow(tallies: Tallies, size: int) -> None:
    """Let the topic take records of this size, and no larger ones."""
    record_size.limit(tallies.settings.kafka_bootstrap_servers, tallies.told.topic, size)


def event_id(tallies: Tallies, number: int) -> str:
    """Return the id of a row that waits."""
    (found,) = tallies.sql(
        "SELECT event_id FROM exactly_once_outbox WHERE convert_from(data, 'UTF8') LIKE %s", f'%"number":{number},%'
    )
    return str(found)


def test_a_row_that_kafka_refuses(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    allow(tallies, 2_000)
    tallies.request(1)
    tallies.request(2, padding="x" * 5_000)
    tallies.request(3)
    refused = event_id(tallies, 2)

    stop(tallies, ContentStuck, "lane 0", "MSG_SIZE_TOO_LARGE", refused)
    capsys.readouterr()

    assert tallies.run("outbox show") == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split()[:3] == ["LANE", "ROW", "CLAIMED"]
    assert [refused in line for line in listed[1:]] == [True, False]
    assert tallies.run(f"outbox show {refused} --json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["topic"], shown["key"], shown["claimed"]) == (refused, tallies.told.topic, "k", "yes")
    assert json.loads(shown["data"])["number"] == 2

    assert tallies.run(f"outbox set-aside {refused} --yes") == 0
    told = capsys.readouterr().out
    assert f"{refused} is dead letter 1 now" in told
    assert "dead-letters redrive 1`" in told
    (decision,) = tallies.decisions()
    assert (decision["command"], decision["source"]) == ("outbox set-aside", "lane-0")
    assert decision["before"]["event_id"] == refused

    tallies.work()
    assert tallies.numbers() == {1: 1, 3: 1}
    (record,) = tallies.read(tallies.service.dead_letter_topic)
    assert json.loads(record.value())["dead_letter"] == 1

    # It comes back under its own id, and is refused again as long as the topic is as it was.
    assert tallies.run("dead-letters redrive 1") == 0
    assert event_id(tallies, 2) == refused
    stop(tallies, ContentStuck, refused)
    allow(tallies, 20_000)
    tallies.work()
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1}
    assert dict(tallies.consumed())[2] == refused
    assert tallies.run("dead-letters redrive 1") == 0
    tallies.work()
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1}


def test_a_dead_letter_that_is_no_row_of_the_outbox_fails_and_those_behind_it_go_on(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.request(1, 2)
    tallies.work(die="unpublished")
    for number in (1, 2):
        assert tallies.run(f"outbox set-aside {event_id(tallies, number)} --yes") == 0
    tallies.sql("UPDATE exactly_once_dead_letter SET headers = '[]' WHERE id = 1")
    capsys.readouterr()

    assert tallies.run("dead-letters redrive --all") == 1

    failed, done, _ = capsys.readouterr().out.splitlines()
    assert failed.startswith("1: failed: Reject: it has not the headers of an event of this outbox")
    assert done == "2: re-driven"
    tallies.work()
    assert tallies.numbers() == {2: 1}


def test_a_row_leaves_its_claim_alone(tallies: Tallies) -> None:
    """The claim's other rows are published as before, under another claim id."""
    tallies.request(1, 2, 3)
    tallies.work(die="unpublished")
    position, claim_id, rows = tallies.lane()
    assert rows == 3

    assert tallies.run(f"outbox set-aside {event_id(tallies, 2)} --yes") == 0

    now = tallies.lane()
    assert (now[0], now[2]) == (position, 2)
    assert now[1] != claim_id
    tallies.work()
    assert tallies.numbers() == {1: 1, 3: 1}


def test_a_row_that_is_not_claimed(tallies: Tallies) -> None:
    tallies.request(1)
    tallies.work(die="unpublished")
    claim = tallies.lane()
    tallies.request(2)

    assert tallies.run(f"outbox set-aside {event_id(tallies, 2)} --yes") == 0

    assert tallies.lane() == claim
    tallies.work()
    assert tallies.numbers() == {1: 1}


def test_the_whole_claim_may_leave(tallies: Tallies) -> None:
    """An empty claim is published like any other: the published position must move on."""
    tallies.request(1)
    tallies.work(die="unpublished")

    assert tallies.run(f"outbox set-aside {event_id(tallies, 1)} --yes") == 0

    tallies.request(2)
    tallies.work()
    assert tallies.numbers() == {2: 1}


def test_a_row_comes_back_once_however_many_re_drive_it(tallies: Tallies) -> None:
    tallies.request(1)
    tallies.work(die="unpublished")
    assert tallies.run(f"outbox set-aside {event_id(tallies, 1)} --yes") == 0

    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: tallies.run("dead-letters redrive 1"), range(4)))

    assert codes == [0] * 4
    tallies.work()
    assert tallies.numbers() == {1: 1}


def test_what_kafka_has_cannot_be_set_aside(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.request(1)
    tallies.work(die="published")
    published = event_id(tallies, 1)

    assert tallies.run(f"outbox set-aside {published} --yes") == 1
    assert "Kafka has" in capsys.readouterr().err
    tallies.forget_group()
    assert tallies.run(f"outbox set-aside {published} --yes") == 1
    assert "decide the lane first" in capsys.readouterr().err
    assert tallies.run("outbox set-aside nothing --yes") == 1
    assert tallies.run("outbox show nothing") == 1
    assert tallies.sql("SELECT count(*) FROM exactly_once_dead_letter") == [0]
