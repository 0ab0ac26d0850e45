"""Rows that requests and handlers put into the outbox are published once, in the order of each key's changes."""

import threading

import msgspec
import pytest
from sqlalchemy import Engine

from shared.errors import NotOwned, Reject
from tests.faults.stage import Stage, partition
from tests.faults.trail import Told, Trail
from tests.integration.postgres.test_claim_log import claim

MANY = 1_000_000


def published_numbers(stage: Stage) -> list[int]:
    """Return the numbers that a read_committed reader sees."""
    return [msgspec.json.decode(record.data, type=Told).number for record in stage.read(stage.kit.told.topic)]


def test_a_slow_request_with_a_lower_row_id_is_published_when_it_commits(stage: Stage) -> None:
    """A relay that remembers its last published id would never look back."""
    slow, quick = stage.keys[:2]  # of one lane
    stage.worker()
    with stage.requests.transaction() as session:
        stage.step(session, slow, MANY)
        stage.outbox.write(session)
        stage.request([quick])
        stage.until(
            lambda: stage.one("SELECT count(*) FROM exactly_once_outbox") == 0,
            "the quick one is published and forgotten",
        )
        assert MANY not in published_numbers(stage)
    stage.requested[slow].append(MANY)
    stage.request([slow])
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_handlers_and_requests_that_change_the_same_aggregates_keep_the_order_of_each(stage: Stage) -> None:
    stage.worker(batch_records=7, claim_rows=11)

    def ask() -> None:
        for _ in range(50):
            stage.ask(wish="")

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(50):
        stage.request()
    asking.join()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []
    assert sum(map(len, stage.asked.values())) == 200


def test_a_lane_and_the_partitions_of_its_records_agree(stage: Stage) -> None:
    """So a key is always in one place, by Kafka's client, this library or another language's."""
    keys = [f"order {n}: ключ {n * 7919}" for n in range(1_000)]
    with stage.requests.transaction() as session:
        for number, key in enumerate(keys):
            stage.step(session, key, number)
    lanes: dict[str, int] = dict(stage.connection.execute("SELECT key, lane FROM exactly_once_outbox").fetchall())
    assert lanes == {key: partition(key) for key in keys}
    stage.worker()
    stage.until_drained()
    published = {record.key: record.partition for record in stage.read(stage.kit.told.topic)}
    assert published == lanes


def test_a_request_that_fails_publishes_nothing(stage: Stage) -> None:
    def fail() -> None:
        with stage.requests.transaction() as session:
            stage.step(session, stage.keys[0], 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stage.one("SELECT count(*) FROM exactly_once_outbox") == 0
    assert stage.one("SELECT count(*) FROM trail") == 0


def test_what_kafka_would_refuse_for_its_size_never_enters_the_outbox(stage: Stage) -> None:
    def too_much() -> None:
        with stage.requests.transaction() as session:
            stage.step(session, "a", 1)
            session.add(Trail(key="b", steps=1, handled=[], requested=[]))
            stage.outbox.add(session, stage.kit.told(trail="b", step=1, number=1, padding="x" * 900_000))

    with pytest.raises(Reject, match="EVENT_BYTES_MAX is 900000"):
        too_much()
    assert stage.one("SELECT count(*) FROM trail") == 0


def test_nothing_is_published_for_an_aggregate_that_is_not_locked(stage: Stage) -> None:
    stage.connection.execute("INSERT INTO trail VALUES ('a', 0, '{}', '{}'), ('b', 0, '{}', '{}')")
    with stage.requests.transaction() as session:
        session.get(Trail, "a")
        with pytest.raises(NotOwned, match="Told is published for 'a'"):
            stage.outbox.add(session, stage.kit.told(trail="a", step=1, number=1))
        session.lock(Trail, "b")
        stage.outbox.add(session, stage.kit.told(trail="b", step=1, number=1))
    assert stage.connection.execute("SELECT key FROM exactly_once_outbox").fetchall() == [("b",)]


def test_ids_are_not_kept_in_reserve(stage: Stage) -> None:
    """A session with a cache of ids would give a key's later change an earlier id."""
    sequence = "pg_get_serial_sequence('exactly_once_outbox', 'id')::regclass"
    assert stage.one(f"SELECT seqcache FROM pg_sequence WHERE seqrelid = {sequence}") == 1


@pytest.fixture
def words(stage: Stage, engine: Engine) -> Engine:
    """Commit ten rows of 100 bytes in lane 0, and three in lane 1."""
    for lane, count in ((0, 10), (1, 3)):
        stage.connection.execute(
            "INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data) "
            "SELECT %s, 't', 'k', n, 'Told', 1, convert_to(repeat('x', 100), 'UTF8') FROM generate_series(1, %s) AS n",
            (lane, count),
        )
    return engine


def test_a_claim_is_bounded_by_rows_and_by_bytes(words: Engine) -> None:
    with words.connect() as connection:
        claims = claim(connection, {0: 4, 1: 4}, MANY)
        assert {lane: claim.rows for lane, claim in claims.items()} == {0: 4, 1: 3}
        connection.rollback()
        claims = claim(connection, {0: 10, 1: 10}, 250)
        assert {lane: claim.rows for lane, claim in claims.items()} == {0: 3, 1: 3}
        connection.rollback()
        claims = claim(connection, {0: 10, 1: 10}, 1)
        assert {lane: claim.rows for lane, claim in claims.items()} == {0: 1, 1: 1}, (
            "one is claimed however large it is"
        )
