"""An event that comes twice takes effect once, on any input and at any time."""

import threading
from collections.abc import Iterable

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, Engine

from shared.postgres import inbox, positions
from shared.protocol.ports import Arrival, Input
from shared.testing import SECONDS_MAX
from tests.faults.stage import Stage, headers


def publish_again(stage: Stage) -> None:
    """Produce all events again, as a producer does that does not know what it has sent."""
    for key, numbers in stage.asked.items():
        for number in numbers:
            event = stage.kit.asked(trail=key, number=number)
            stage.produce(key, msgspec.json.encode(event), headers(f"{key}-{number}"))
    stage.flush()


def test_in_the_same_batch_in_a_later_one_and_after_a_restart(stage: Stage) -> None:
    stage.ask()
    publish_again(stage)
    stage.worker()
    stage.until_drained()
    publish_again(stage)
    stage.ask()
    stage.until_drained()
    stage.stop()
    publish_again(stage)
    stage.worker()
    stage.ask()
    publish_again(stage)
    stage.until_drained()
    stage.until_read()
    stage.stop()
    assert stage.problems() == []


def test_two_sources_may_use_one_id(stage: Stage) -> None:
    stage.ask()
    for key, (number,) in stage.asked.items():
        event = stage.kit.asked(trail=key, number=number)
        head = [header for header in headers(f"{key}-{number}") if header[0] != "ce_source"]
        stage.produce(key, msgspec.json.encode(event), [*head, ("ce_source", "somebody else")])
        stage.asked[key].append(number)
    stage.flush()
    stage.worker()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_two_workers_that_receive_the_same_events_do_not_wait_for_each_other_for_ever(
    stage: Stage, engine: Engine
) -> None:
    """A worker that stood still holds the batch that its inputs' new owner has read too."""
    topic = stage.kit.asked.topic
    ids = [f"{n:03}" for n in range(300)]
    found: list[int] = []
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def receive(connection: Connection, partition: int, ids: Iterable[str]) -> int:
        arrivals = [Arrival(Input(topic, partition), 1_000_000, "source", event_id) for event_id in ids]
        return len(connection.execute(*inbox.receiving(arrivals)).all())

    def second(connection: Connection) -> None:
        found.append(receive(connection, 1, reversed(ids)))

    with engine.begin() as connection:
        positions.start(connection, {Input(topic, 0): 0, Input(topic, 1): 0})

    with engine.begin() as one, engine.begin() as other:
        assert receive(one, 0, ids[:100]) == 100
        thread = threading.Thread(target=second, args=(other,))
        thread.start()
        stage.until(lambda: stage.one(waits) == 1, "the second one waits for the first one")
        assert receive(one, 0, ids[100:]) == 200
        one.commit()
        thread.join(SECONDS_MAX)
        assert found == [0]


def test_only_what_is_older_than_the_retention_is_forgotten(stage: Stage, engine: Engine) -> None:
    with engine.begin() as connection:
        assert all(inbox.receive(connection, "source", str(n)) for n in range(10))
        assert not inbox.receive(connection, "source", "7")
    stage.connection.execute(
        "UPDATE exactly_once_inbox SET handled_at = handled_at - interval '2 hours' WHERE event_id::int < 7"
    )
    with engine.begin() as connection:
        assert inbox.prune(connection, seconds=3_600, rows=4) == 4
        assert inbox.prune(connection, seconds=3_600, rows=4) == 3
        assert inbox.prune(connection, seconds=3_600, rows=4) == 0
    rest = stage.connection.execute("SELECT event_id FROM exactly_once_inbox ORDER BY 1").fetchall()
    assert rest == [("7",), ("8",), ("9",)]


def test_a_second_entry_is_impossible(stage: Stage) -> None:
    stage.connection.execute("INSERT INTO exactly_once_inbox (source, event_id) VALUES ('a', 'b')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        stage.connection.execute("INSERT INTO exactly_once_inbox (source, event_id) VALUES ('a', 'b')")
