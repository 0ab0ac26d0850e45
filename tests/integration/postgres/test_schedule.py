"""A scheduled event is published once, at its moment, in the order of its key; or it is cancelled; never both."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from shared.container import ServiceContainer
from shared.postgres import outbox, schedule
from shared.postgres.ahead import Statement
from shared.postgres.outbox import CHANNEL
from shared.session import Session
from shared.settings import Settings
from shared.worker import budgets, turns
from tests.faults import trail
from tests.faults.stage import Stage, partition
from tests.faults.trail import Told, Trail

HOUR = timedelta(hours=1)
SOON = timedelta(milliseconds=300)
LANES = {0: 100, 1: 100}
DUE_NOW = "UPDATE exactly_once_schedule SET due = now() - make_interval(secs => %s) WHERE name = %s"
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
MANY = 50_000


@contextmanager
def changing(stage: Stage, *keys: str) -> Iterator[Session]:
    """Begin a request that may schedule events of `keys`."""
    with stage.requests.transaction() as session:
        for key in keys:
            if session.lock(Trail, key) is None:
                session.add(Trail(key=key, steps=0, handled=[], requested=[]))
        yield session


def put(stage: Stage, name: str, key: str = "", after: timedelta = HOUR, *, ask: bool = False) -> bool:
    """Schedule an event by a request of its own; return whether it has replaced one."""
    key = key or stage.keys[0]
    with changing(stage, key) as session:
        change = session.schedule(stage.kit.told(trail=key, step=0, number=0, padding=name), after=after, name=name)
        return ask and bool(change)


def names(stage: Stage) -> list[str]:
    """Return the names of what waits."""
    found = stage.connection.execute("SELECT name FROM exactly_once_schedule ORDER BY name").fetchall()
    return [name for (name,) in found]


def ready(stage: Stage) -> list[str]:
    """Return the names of what has become a row of the outbox, in order."""
    rows = stage.connection.execute("SELECT data FROM exactly_once_outbox ORDER BY id").fetchall()
    return [msgspec.json.decode(data, type=Told).padding for (data,) in rows]


def make_due(stage: Stage, *found: str) -> None:
    """Make events due, the first of them first."""
    for age, name in enumerate(reversed(found)):
        stage.connection.execute(DUE_NOW, (age + 1, name))


def move(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(*schedule.moving(LANES))


# ---- what a transaction changes


def test_what_is_scheduled_is_committed_with_its_transaction(stage: Stage) -> None:
    put(stage, "a")
    with suppress(ZeroDivisionError), changing(stage, "k") as session:
        session.schedule(stage.kit.told(trail="k", step=0, number=0), after=HOUR, name="b")
        raise ZeroDivisionError
    assert names(stage) == ["a"]
    left = stage.one("SELECT extract(epoch FROM due - scheduled_at) FROM exactly_once_schedule")
    assert HOUR.total_seconds() - 1 <= left <= HOUR.total_seconds()


def test_the_answer_says_whether_one_was_waiting(stage: Stage) -> None:
    assert [put(stage, "a", ask=True), put(stage, "a", ask=True)] == [False, True]
    with changing(stage) as session:
        assert [bool(session.cancel(name)) for name in ("a", "b")] == [True, False]
    with changing(stage, "k") as session:
        first = session.schedule(stage.kit.told(trail="k", step=0, number=0), after=HOUR, name="a")
        gone = session.cancel("a")  # the first is written for it
        again = session.schedule(stage.kit.told(trail="k", step=0, number=1), after=HOUR, name="a")
        assert (bool(first), bool(gone), bool(again)) == (False, True, False)
    assert names(stage) == ["a"]


def test_what_replaces_another_takes_its_whole_place(stage: Stage) -> None:
    first, other = stage.keys[0], stage.keys[-1]
    put(stage, "a", first)
    before = stage.one("SELECT id FROM exactly_once_schedule")
    at = datetime.now(UTC) + timedelta(days=40)
    with changing(stage, other) as session:
        session.schedule(stage.kit.told(trail=other, step=7, number=7), at=at, name="a")
    row = stage.connection.execute("SELECT key, lane, due, data FROM exactly_once_schedule").fetchone()
    assert row is not None
    assert row[:3] == (other, partition(other), at)
    assert msgspec.json.decode(row[3], type=Told).step == 7
    assert stage.one("SELECT id FROM exactly_once_schedule") > before


def test_a_moment_that_has_passed_publishes_at_once_after_the_other_events(stage: Stage) -> None:
    key = stage.keys[0]
    put(stage, "a", key)
    with changing(stage, key) as session:
        past = datetime.now(UTC) - timedelta(days=2)
        session.schedule(stage.kit.told(trail=key, step=0, number=0, padding="late"), at=past, name="a")
        stage.outbox.add(session, stage.kit.told(trail=key, step=0, number=0, padding="published"))
    assert (names(stage), ready(stage)) == ([], ["published", "late"])


def test_a_savepoint_that_is_undone_undoes_its_changes_of_the_schedule(stage: Stage) -> None:
    put(stage, "a")
    put(stage, "b")
    with changing(stage, "k") as session:
        session.cancel("b")
        with suppress(ZeroDivisionError), session.begin_nested():
            assert session.cancel("a")  # and all that waited is written with it
            session.schedule(stage.kit.told(trail="k", step=0, number=0), after=HOUR, name="c")
            raise ZeroDivisionError
        session.schedule(stage.kit.told(trail="k", step=0, number=0), after=HOUR, name="d")
    assert names(stage) == ["a", "d"]


# ---- what becomes due


def test_what_is_due_becomes_rows_in_the_order_of_their_moments(stage: Stage, engine: Engine) -> None:
    first, second, other = *stage.keys[:2], stage.keys[-1]
    for name, key in (("later", first), ("a", first), ("b", second), ("c", first), ("d", other)):
        put(stage, name, key)
    make_due(stage, "c", "b", "a", "d")
    move(engine)
    moved = ready(stage)
    assert [name for name in moved if name != "d"] == ["c", "b", "a"]
    assert (names(stage), sorted(moved)) == (["later"], ["a", "b", "c", "d"])
    move(engine)
    assert len(ready(stage)) == 4


def test_of_one_moment_the_one_that_was_scheduled_first_is_first(stage: Stage, engine: Engine) -> None:
    for name in ("b", "c", "a"):
        put(stage, name)
    put(stage, "b")  # anew
    stage.connection.execute("UPDATE exactly_once_schedule SET due = now()")
    move(engine)
    assert ready(stage) == ["c", "a", "b"]


@pytest.mark.parametrize("past", [True, False])
def test_so_it_is_within_one_transaction_whatever_their_names_are(stage: Stage, engine: Engine, past: bool) -> None:
    key = stage.keys[0]
    at = datetime.now(UTC) + (-HOUR if past else HOUR)
    with changing(stage, key) as session:
        for name in ("b", "c", "a"):
            session.schedule(stage.kit.told(trail=key, step=0, number=0, padding=name), at=at, name=name)
    stage.connection.execute("UPDATE exactly_once_schedule SET due = now()")
    move(engine)
    assert ready(stage) == ["b", "c", "a"]


def test_a_worker_moves_what_is_due_in_its_lanes_and_not_more_than_a_claim_takes(stage: Stage, engine: Engine) -> None:
    mine, theirs = stage.keys[0], stage.keys[-1]
    for name in ("a", "b", "c"):
        put(stage, name, mine)
    put(stage, "theirs", theirs)
    make_due(stage, "a", "b", "c", "theirs")
    with engine.begin() as connection:
        connection.execute(*schedule.moving({partition(mine): 2}))
    assert (names(stage), ready(stage)) == (["c", "theirs"], ["a", "b"])


def test_what_another_transaction_has_locked_waits_and_so_do_the_later_ones_of_its_key(
    stage: Stage, engine: Engine
) -> None:
    key, other = stage.keys[:2]  # of one lane
    for name, of in (("first", key), ("locked", key), ("behind", key), ("free", other)):
        put(stage, name, of)
    make_due(stage, "first", "locked", "free", "behind")
    with suppress(ZeroDivisionError), changing(stage) as session:
        assert session.cancel("locked")
        move(engine)
        assert (names(stage), ready(stage)) == (["behind", "locked"], ["first", "free"])
        raise ZeroDivisionError
    move(engine)
    assert ready(stage) == ["first", "free", "locked", "behind"]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("change", ["cancel", "replace"])
def test_a_change_at_the_moment_at_which_it_becomes_due_learns_who_was_first(
    stage: Stage, engine: Engine, change: str, commits: bool
) -> None:
    """The change waits for the transaction that moves it."""
    put(stage, "a")
    make_due(stage, "a")
    answers: list[bool] = []

    def work() -> None:
        with changing(stage, "k") as session:
            if change == "cancel":
                answers.append(bool(session.cancel("a")))
            else:
                event = stage.kit.told(trail="k", step=0, number=0, padding="new")
                answers.append(bool(session.schedule(event, after=HOUR, name="a")))

    working = threading.Thread(target=work)
    with engine.connect() as connection:
        connection.execute(*schedule.moving(LANES))
        working.start()
        stage.until(lambda: stage.one(BLOCKED) == 1, "it waits")
        connection.commit() if commits else connection.rollback()
    working.join()
    assert answers == [not commits]
    assert ready(stage) == (["a"] if commits else [])
    assert names(stage) == (["a"] if change == "replace" else [])
    assert stage.one("SELECT count(*) FROM exactly_once_schedule WHERE due < now()") == 0


def test_two_changes_of_one_name_at_one_time_follow_each_other(stage: Stage) -> None:
    """What the first has put there, the second finds, also if nothing was there before."""
    answers: list[bool] = []

    def work() -> None:
        answers.append(put(stage, "a", stage.keys[-1], ask=True))

    working = threading.Thread(target=work)
    with changing(stage, "k") as session:
        assert not session.schedule(stage.kit.told(trail="k", step=0, number=0), after=HOUR, name="a")
        working.start()
        stage.until(lambda: stage.one(BLOCKED) == 1, "it waits")
    working.join()
    assert (answers, names(stage)) == ([True], ["a"])


# ---- a worker


def published(stage: Stage) -> list[str]:
    """Return what a read_committed reader sees, in order."""
    return [msgspec.json.decode(record.data, type=Told).padding for record in stage.read(stage.kit.told.topic)]


def never_asks(name: str, settings: Settings) -> ServiceContainer:
    """Build a worker that asks the outbox once after its work, and then only if it is woken or something is due."""
    turns.WAIT_MAX = turns.REPORT_SECONDS = HOUR.total_seconds()
    turns.WAIT_GROWTH = 1_000_000
    budgets.CYCLE = HOUR.total_seconds()
    return trail.build(name, settings)


LISTENER = """
    SELECT coalesce(max(pid), 0) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND position('pg_listening_channels' in query) > 0
"""


def test_a_worker_that_sleeps_is_told_of_a_moment_that_is_near(servers: Any, tmp_path: Any) -> None:
    with Stage(servers, tmp_path, build=never_asks) as stage:
        worker = stage.worker()
        stage.until(lambda: stage.one(LISTENER), "it listens")
        for number in range(1, 4):
            put(stage, f"n-{number}", after=SOON)
            stage.until(lambda number=number: len(published(stage)) == number, "it is published")  # type: ignore[misc]
        assert published(stage) == ["n-1", "n-2", "n-3"]
        assert worker.restarts == 0
        stage.show()


def test_a_worker_knows_of_what_its_own_handler_has_scheduled(servers: Any, tmp_path: Any) -> None:
    with Stage(servers, tmp_path, build=never_asks) as stage:
        worker = stage.worker()
        stage.until(lambda: stage.one(LISTENER), "it listens")
        key = stage.keys[0]
        for number in range(1, 3):  # it asks for what it may not have heard of at its start
            stage.ask([key])
            stage.until(lambda number=number: len(published(stage)) == number, "it is published")  # type: ignore[misc]
        stage.ask([key], wish="schedule")
        stage.until(lambda: published(stage) == [*[""] * 3, "scheduled"], "both are published")
        assert worker.restarts == 0
        stage.show()


def test_a_worker_is_not_told_of_a_moment_that_it_will_learn_of_in_time(stage: Stage) -> None:
    with psycopg.connect(stage.servers.postgres.dsn(stage.name), autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}".encode())

        def heard() -> list[str]:
            connection.execute("SELECT")
            return [one.payload for one in connection.notifies(timeout=0)]

        near = timedelta(seconds=schedule.NEAR_SECONDS * 0.9)
        put(stage, "far", after=HOUR)
        assert heard() == []
        put(stage, "near", after=near)
        assert heard() == [str(partition(stage.keys[0]))]
        put(stage, "behind", after=near)
        assert heard() == [], "the worker learns of it when it looks after the first"
        put(stage, "past", after=timedelta(0))
        assert heard() == [str(partition(stage.keys[0]))]


def test_a_worker_publishes_each_at_its_moment_and_once_whatever_is_killed(stage: Stage) -> None:
    for _ in range(2):
        stage.worker()
    for number in range(40):
        put(stage, f"n-{number:02}", stage.keys[number % 4], after=timedelta(milliseconds=100 * number))
        if number % 10 == 5:
            worker = stage.workers[number // 10 % 2]
            worker.send(signal.SIGKILL)
            worker.again()
    with changing(stage) as session:
        gone = [name for name in ("n-38", "n-39", "n-00") if session.cancel(name)]
    stage.until(lambda: not names(stage), "all are due")
    stage.until_drained()
    found = published(stage)
    assert sorted(found) == sorted({f"n-{number:02}" for number in range(40)} - {*gone})
    for key in range(4):
        of_key = [name for name in found if int(name[2:]) % 4 == key]
        assert of_key == sorted(of_key)


# ---- a million


def plan(connection: Connection, statement: Statement) -> str:
    explained = text(f"EXPLAIN {statement.text.text}")
    return "\n".join(connection.execute(explained, statement.parameters).scalars())


def test_what_waits_costs_nothing_until_it_is_due(stage: Stage, engine: Engine) -> None:
    """Whatever PostgreSQL believes about how much is due, it reads the first entries of an index."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO exactly_once_schedule (name, due, lane, hash, topic, key, event_id, event_type, "
                "event_version, data) SELECT 'n-' || n, clock_timestamp() + make_interval(secs => 3600 + n), n % 2, n, "
                "'t', 'k', n, 'Told', 1, '' FROM generate_series(1, :many) AS n"
            ),
            {"many": MANY},
        )
    looking = Statement(outbox._UNPUBLISHED, {"lanes": list(LANES), "recurring": []})
    for vacuumed in (False, True):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if vacuumed:
                connection.execute(text("VACUUM ANALYZE exactly_once_schedule"))
            for statement in (schedule.moving(LANES), looking):
                found = plan(connection, statement)
                assert "Seq Scan on exactly_once_schedule" not in found, found
                assert "exactly_once_schedule_due" in found, found
    move(engine)
    assert ready(stage) == []
