"""A slot is held by one worker at a time, and follows the database session that holds it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from dev.servers import Servers
from dev.servers.places import free_port
from shared.postgres import slots
from tests.faults.stage import Stage, Worker

ACTIVITY = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
HOLDER = """
    SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE datname = current_database() AND locktype = 'advisory' AND classid = %s AND objid = %s AND granted
"""


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    """A service with two slots."""
    with Stage(servers, tmp_path, worker_slots=2) as stage:
        yield stage
        stage.show()


def holder(stage: Stage, slot: int) -> int | None:
    """Return the server process of the session that holds a slot."""
    row = stage.connection.execute(HOLDER, (slots.LOCK_CLASS, slot)).fetchone()
    return None if row is None else int(row[0])


def cut(stage: Stage, pid: int) -> None:
    """End a database session, as a failover or an operator does."""
    stage.connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def started(stage: Stage, *, slot: int) -> Worker:
    """Start a worker, and wait until it has that slot."""
    worker = stage.worker()
    stage.until(lambda: f"slot={slot}" in worker.log(), f"it takes slot {slot}")
    return worker


def test_the_lowest_free_slot_is_taken(stage: Stage, engine: Engine) -> None:
    with engine.connect() as one, engine.connect() as other, engine.connect() as third:
        assert slots.take_any(one, 2) == 0
        assert slots.take_any(other, 2) == 1
        assert slots.take_any(third, 2) is None
        assert slots.is_mine(one, 0)
        assert not slots.is_mine(one, 1)
        one.invalidate()
        stage.until(lambda: slots.take_any(third, 2) == 0, "it is free with the end of the session")


def test_slots_of_two_services_in_one_server_do_not_meet(stage: Stage, engine: Engine, servers: Servers) -> None:
    with psycopg.connect(servers.postgres.dsn()) as other:
        other.execute("SELECT pg_advisory_lock(%s, 0)", (slots.LOCK_CLASS,))
        with engine.connect() as connection:
            assert slots.take_any(connection, 1) == 0
            assert slots.is_mine(connection, 0)


def test_an_old_session_of_ours_is_ended_and_no_other(stage: Stage, engine: Engine) -> None:
    """The start time tells it from another session with the same process id."""
    with engine.connect() as old, engine.connect() as new:
        backend = slots.backend(old)
        slots.terminate(new, backend._replace(started="2001-01-01 00:00:00+00"))
        assert slots.backend(old) == backend
        old.rollback()
        slots.terminate(new, backend)
        old.invalidate()
    assert (backend.pid,) not in stage.connection.execute(ACTIVITY).fetchall()


def test_the_third_worker_stands_by_until_a_slot_is_free(stage: Stage) -> None:
    first = started(stage, slot=0)
    started(stage, slot=1)
    third = stage.worker(metrics_port=free_port())
    stage.until(lambda: third.ready() == (200, "standby: all slots are taken\n"), "it is ready to step in")
    stage.ask()
    stage.until_drained()
    assert set(stage.shares()) == {
        name for name in stage.shares() if name.startswith((f"{stage.name}-0", f"{stage.name}-1"))
    }

    first.send(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    stage.ask()
    stage.request()
    stage.until(lambda: "slot=0" in third.log(), "it takes the slot of the dead one")
    stage.until_drained()
    stage.until_shared(2)
    stage.stop()
    assert stage.problems() == []


def test_a_standby_ends_when_it_is_asked_to(stage: Stage) -> None:
    started(stage, slot=0)
    started(stage, slot=1)
    third = stage.worker(metrics_port=free_port())
    stage.until(lambda: third.ready()[0] == 200, "it stands by")
    third.send(signal.SIGTERM)
    assert third.ended() == 0
    stage.stop()


def test_a_worker_whose_session_was_cut_takes_its_own_slot_again(stage: Stage) -> None:
    worker = started(stage, slot=0)
    stage.ask()
    stage.until_drained()
    pid, session = worker.pid, holder(stage, 0)
    assert session is not None
    cut(stage, session)
    stage.ask()
    stage.request()
    stage.until_drained()
    assert holder(stage, 0) not in {None, session}
    assert (worker.pid, worker.restarts) == (pid, 0)
    stage.stop()
    assert stage.problems() == []


def test_sessions_that_are_cut_again_and_again_while_events_flow(stage: Stage) -> None:
    started(stage, slot=0)
    started(stage, slot=1)
    stage.until_shared(2)
    for _ in range(15):
        stage.ask()
        stage.request()
        for slot in (0, 1):
            session = holder(stage, slot)
            if session is not None:
                cut(stage, session)
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_a_worker_whose_slot_was_taken_meanwhile_ends_and_starts_anew(stage: Stage) -> None:
    """It stood still until the server ended its session, and another worker was quicker."""
    worker = started(stage, slot=0)
    stage.ask()
    stage.until_drained()
    session = holder(stage, 0)
    assert session is not None
    os.kill(worker.pid, signal.SIGSTOP)
    stage.until(lambda: worker.frozen, "it stands still")
    cut(stage, session)
    assert stage.one("SELECT pg_try_advisory_lock(%s, 0)::int", slots.LOCK_CLASS) == 1
    worker.send(signal.SIGCONT)
    stage.ask()
    stage.until(lambda: worker.restarts == 1, "it ends, to be started anew")
    assert "slot 0 of" in worker.log()
    assert "is held by another worker" in worker.log()
    stage.until(lambda: "slot=1" in worker.log(), "it finds another slot")
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_the_session_of_a_worker_that_is_killed_in_a_transaction_is_gone_at_once(stage: Stage) -> None:
    with stage.gate_closed():
        worker = started(stage, slot=0)
        stage.ask(stage.keys[:1], wish="wait")
        stage.until(stage.at_gate, "the handler is at work")
        worker.send(signal.SIGKILL)
        stage.until(lambda: holder(stage, 0) is None, "the slot is free", seconds=5)
