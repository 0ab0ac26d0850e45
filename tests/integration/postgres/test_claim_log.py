"""The claim log is written with the claim, and stays true after all that can happen to it."""

from collections.abc import Iterator, Mapping

import pytest
from sqlalchemy import Connection, Engine

from dev.servers import Servers
from shared.postgres import claim_log, outbox
from shared.protocol.ports import Claim
from tests.faults.stage import Stage
from tests.integration.audits import audit
from tests.integration.operations.test_outbox import event_id
from tests.integration.tallies import Tallies

MANY = 1_000_000
PUBLISHED = (
    "SELECT lane, position, claim_id::text, topic, events, event_ids FROM exactly_once_claimed ORDER BY lane, id"
)

Row = tuple[int, int, str | None, str, int, list[str]]


def published(stage: Stage) -> list[Row]:
    """Return the claim log without the server's own values."""
    return stage.connection.execute(PUBLISHED.encode()).fetchall()


def put(stage: Stage, lane: int, *events: tuple[str, str]) -> None:
    """Put events, each a topic and an id, into the outbox."""
    for topic, name in events:
        stage.connection.execute(
            "INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data) "
            "VALUES (%s, %s, 'k', %s, 'Told', 1, repeat('x', 100)::bytea)",
            (lane, topic, name),
        )


def claim(connection: Connection, limits: Mapping[int, int], bytes_max: int) -> dict[int, Claim]:
    return outbox.claims(connection.execute(*outbox.claiming(limits, bytes_max)))


def test_a_row_for_each_topic_of_a_claim(stage: Stage, engine: Engine) -> None:
    put(stage, 0, ("t", "1"), ("u", "2"), ("t", "3"), ("t", "4"))
    put(stage, 1, ("t", "5"))
    with engine.begin() as connection:
        made = claim(connection, {0: 3, 1: 3}, MANY)

    assert {lane: (claim.position, claim.rows) for lane, claim in made.items()} == {0: (1, 3), 1: (1, 1)}
    zero, one = made[0].claim_id, made[1].claim_id
    assert sorted(published(stage)) == [
        (0, 1, zero, "t", 2, ["1", "3"]),
        (0, 1, zero, "u", 1, ["2"]),
        (1, 1, one, "t", 1, ["5"]),
    ]
    with engine.begin() as connection:
        connection.execute(*outbox.forgetting((0, 1)))
        second = claim(connection, {0: 3, 1: 3}, MANY)
    assert published(stage)[2:3] == [(0, 2, second[0].claim_id, "t", 1, ["4"])]


def test_nothing_is_written_for_an_empty_lane(stage: Stage, engine: Engine) -> None:
    with engine.begin() as connection:
        assert claim(connection, {0: 3, 1: 3}, MANY) == {}
    assert published(stage) == []


def test_a_claim_that_is_not_committed_is_not_written(stage: Stage, engine: Engine) -> None:
    put(stage, 0, ("t", "1"))
    with engine.connect() as connection:
        claim(connection, {0: 3}, MANY)
        connection.rollback()
    assert published(stage) == []


def test_a_smaller_claim_takes_the_place_of_the_first(stage: Stage, engine: Engine) -> None:
    put(stage, 0, ("t", "1"), ("u", "2"), ("t", "3"))
    put(stage, 1, ("t", "4"))
    with engine.begin() as connection:
        claim(connection, {0: 1}, MANY)
        connection.execute(*outbox.forgetting((0,)))
        made = claim(connection, {0: 9, 1: 9}, MANY)
        less = outbox.claim_less(connection, {0: 1})

    assert sorted(published(stage))[1:] == [
        (0, 2, less[0].claim_id, "u", 1, ["2"]),
        (1, 1, made[1].claim_id, "t", 1, ["4"]),
    ]
    assert sorted(published(stage))[0][1] == 1, "an earlier claim stays"


def test_a_claim_that_is_published_is_not_taken_back(stage: Stage, engine: Engine) -> None:
    """It has no rows left, and stays the lane's claim until there is something to publish."""
    put(stage, 0, ("t", "1"))
    with engine.begin() as connection:
        claim(connection, {0: 1}, MANY)
        connection.execute(*outbox.forgetting((0,)))
        claim_log.take_back(connection, (0, 1))
    assert [row[5] for row in published(stage)] == [["1"]]


def test_a_whole_outbox_is_counted_as_published_in_rows_of_some_size(
    stage: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_log, "IDS_MAX", 3)
    put(stage, 0, *((topic, f"{topic}{n}") for n in range(4) for topic in "tu"))
    with engine.begin() as connection:
        claim_log.count_as_published(connection, 0, 7, "", "SELECT id FROM exactly_once_outbox WHERE event_id <> 't1'")

    assert [(row[:5], row[5]) for row in published(stage)] == [
        ((0, 7, None, "t", 3), ["t0", "t2", "t3"]),
        ((0, 7, None, "u", 3), ["u0", "u1", "u2"]),
        ((0, 7, None, "u", 1), ["u3"]),
    ]


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers, partitions=2) as made:
        yield made


def test_a_row_that_is_set_aside_and_published_after_all(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.request(1, 2, 3)
    tallies.work(die="unpublished")
    aside = event_id(tallies, 2)

    assert tallies.run(f"outbox set-aside {aside} --yes") == 0

    assert aside not in tallies.sql("SELECT unnest(event_ids) FROM exactly_once_claimed")
    assert tallies.sql("SELECT claim_id FROM exactly_once_claimed") == tallies.sql(
        "SELECT claim_id FROM exactly_once_lane WHERE row_ids <> '{}'"
    )
    assert audit(tallies, capsys).counts == {}
    tallies.work()
    assert audit(tallies, capsys).counts == {}
    assert tallies.run("dead-letters redrive --all") == 0
    tallies.work()
    answer = audit(tallies, capsys)
    assert (answer.counts, answer.facts["records_of_ours"]) == ({}, 4), "three events, and one about the dead letter"


@pytest.mark.parametrize("die", ["unpublished", "published"])
@pytest.mark.parametrize("lanes", [1, 5])
def test_lanes_that_are_resized(tallies: Tallies, capsys: pytest.CaptureFixture[str], die: str, lanes: int) -> None:
    """Their keys change lanes; each keeps the order of the claims."""
    keys = [f"key-{n}" for n in range(8)]
    for key in keys:
        tallies.request(1, 2, 3, key=key)
    tallies.work(rows=5)
    for key in keys:
        tallies.request(4, 5, 6, key=key)
    tallies.work(die=die, rows=5)
    if lanes == 1:
        tallies.recreate(tallies.service.lane_topic, 1)
        assert tallies.run(f"positions adopt --target {tallies.service.lane_topic} --yes") == 0
        assert tallies.run("positions adopt --target lanes --yes") == 0
    tallies.settings = tallies.settings.model_copy(update={"partitions": lanes})

    assert tallies.run("lanes resize --yes") == 0

    assert audit(tallies, capsys).counts == {}
    for key in keys:
        tallies.request(7, 8, key=key)
    tallies.work(rows=3)
    answer = audit(tallies, capsys)
    assert (answer.counts, answer.facts["not_compared"], answer.facts["events_claimed"]) == ({}, {}, 64)
