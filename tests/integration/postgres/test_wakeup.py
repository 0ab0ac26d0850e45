"""A request's row wakes the worker of its lane, if no other row has done so; a worker that nothing wakes asks."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from shared.container import ServiceContainer
from shared.postgres.outbox import CHANNEL
from shared.settings import Settings
from shared.worker import budgets, turns
from tests.faults import trail
from tests.faults.stage import Stage, partition

HOUR = 3_600.0
ROUNDS = 5

LISTENER = """
    SELECT coalesce(max(pid), 0) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND position('pg_listening_channels' in query) > 0
"""
CLAIM_ALL = """
    UPDATE exactly_once_lane AS lane
    SET row_ids = ARRAY(SELECT id FROM exactly_once_outbox AS outbox WHERE outbox.lane = lane.lane ORDER BY id)
"""


@contextmanager
def listening(stage: Stage) -> Iterator[psycopg.Connection]:
    """Listen as a worker does."""
    with psycopg.connect(stage.servers.postgres.dsn(stage.name), autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}".encode())
        yield connection


def heard(connection: psycopg.Connection) -> list[str]:
    """Return what was said since the last call, or the listener's beginning."""
    connection.execute("SELECT")  # what was committed before comes before the answer
    return [notification.payload for notification in connection.notifies(timeout=0)]


def never_asks(name: str, settings: Settings) -> ServiceContainer:
    """Build a worker that asks the outbox once after its work, and then only if it is woken."""
    turns.WAIT_MAX = turns.REPORT_SECONDS = HOUR
    turns.WAIT_GROWTH = 1_000_000
    budgets.CYCLE = HOUR  # or the watchdog would end it, and a new process looks
    return trail.build(name, settings)


def published(stage: Stage) -> int:
    """Return how many events a read_committed reader sees."""
    return len(stage.read(stage.kit.told.topic))


# ---- who is told of what


def test_the_first_row_that_waits_in_a_lane_tells_and_those_behind_it_do_not(stage: Stage) -> None:
    first, second, other = stage.keys[:3]
    assert partition(first) == partition(second) != partition(other)
    with listening(stage) as connection:
        stage.request([first])
        assert heard(connection) == [str(partition(first))]
        stage.request([second])
        stage.request([first])
        assert heard(connection) == []
        stage.request([other])
        assert heard(connection) == [str(partition(other))]


def test_rows_that_a_claim_names_wait_no_more(stage: Stage) -> None:
    key = stage.keys[0]
    with listening(stage) as connection:
        stage.request([key])
        stage.request([key])
        stage.connection.execute(CLAIM_ALL.encode())
        heard(connection)
        stage.request([key])
        assert heard(connection) == [str(partition(key))]
        stage.request([key])
        assert heard(connection) == []


def test_a_transaction_with_rows_of_several_lanes_tells_once(stage: Stage) -> None:
    with listening(stage) as connection:
        with stage.requests.transaction() as session:
            for key in stage.keys:
                stage.step(session, key, stage.number())
        (payload,) = heard(connection)
        assert sorted(payload.split(",")) == sorted({str(partition(key)) for key in stage.keys})


def test_while_one_transaction_is_about_to_tell_no_other_does(stage: Stage) -> None:
    """Each would wait for the other's commit."""
    first, other = stage.keys[0], stage.keys[-1]
    assert partition(first) != partition(other)
    with listening(stage) as connection:
        with stage.open_request([first]):
            stage.request([other])
            assert heard(connection) == []
        assert heard(connection) == [str(partition(first))]


def test_a_request_that_is_undone_tells_nothing(stage: Stage) -> None:
    with listening(stage) as connection:
        with pytest.raises(ZeroDivisionError), stage.open_request(stage.keys):
            raise ZeroDivisionError
        assert heard(connection) == []


def test_a_worker_is_not_told_of_its_own_rows_in_its_own_lanes(stage: Stage) -> None:
    mine, theirs = stage.keys[0], stage.keys[-1]
    stage.outbox.published_here = frozenset({partition(mine)})
    with listening(stage) as connection:
        stage.request([mine])
        assert heard(connection) == []
        stage.request([theirs])
        assert heard(connection) == [str(partition(theirs))]


# ---- a worker


@pytest.fixture
def sleepy_stage(servers: object, tmp_path: object) -> Iterator[Stage]:
    """A service whose workers ask the outbox only if they are woken."""
    with Stage(servers, tmp_path, build=never_asks) as stage:  # type: ignore[arg-type]
        yield stage
        stage.show()


def test_an_idle_worker_publishes_what_a_request_has_inserted_without_asking(sleepy_stage: Stage) -> None:
    stage = sleepy_stage
    worker = stage.worker()
    stage.until(lambda: stage.one(LISTENER), "it listens")
    for n in range(1, ROUNDS + 1):
        stage.request(stage.keys[:1])
        stage.until(lambda n=n: published(stage) == n, "it is published")  # type: ignore[misc]
    assert "wakeup_lost" not in worker.log()
    assert worker.restarts == 0
    stage.stop()  # the wait ends for that too


def test_a_worker_whose_listener_is_lost_publishes_all_the_same_and_listens_again(stage: Stage) -> None:
    worker = stage.worker()
    stage.until(lambda: stage.one(LISTENER), "it listens")
    for _ in range(ROUNDS):
        lost = stage.one(LISTENER)
        stage.connection.execute("SELECT pg_terminate_backend(%s, 5000)", (lost,))
        stage.request()
        stage.until_drained()
        stage.until(lambda lost=lost: stage.one(LISTENER) not in (0, lost), "it listens again")  # type: ignore[misc]
    assert "wakeup_lost" in worker.log()
    stage.until(lambda: worker.log().count("wakeup_back") == ROUNDS, "the log says so each time")
    stage.stop()
    assert stage.problems() == []
