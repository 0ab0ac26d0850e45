"""A worker recovers by itself after a kill, a freeze or a server's absence.

Many of each at once, at random moments, are the scenarios of tests/faults.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.command import EXIT_MISCONFIGURED
from tests.faults.stage import Stage


def test_a_killed_worker_gets_its_partitions_back_without_waiting_for_the_session_timeout(
    servers: Servers, tmp_path: Path
) -> None:
    """It takes the same slot, so it is the same static member, and ends the dead one's open transaction."""
    with Stage(servers, tmp_path, session_timeout_ms=120_000, transaction_timeout_ms=60_000) as stage:
        for _ in range(3):
            worker = stage.worker()
            stage.ask()
            stage.request()
            stage.until_drained()
            worker.send(signal.SIGKILL)
            assert worker.ended() == -signal.SIGKILL
        stage.worker()
        stage.ask()
        began = time.monotonic()
        stage.until_drained()
        assert time.monotonic() - began < 60
        stage.stop()
        assert stage.problems() == []


def test_a_worker_that_stood_still_finds_back_into_its_group_by_itself(stage: Stage) -> None:
    frozen = stage.worker()
    stage.worker()
    stage.until_shared(2)
    stage.ask()
    stage.until_drained()
    pid = frozen.pid
    os.kill(frozen.pid, signal.SIGSTOP)
    stage.ask()
    stage.until_shared(1)
    stage.request()
    stage.until_drained()
    frozen.send(signal.SIGCONT)
    stage.ask()
    stage.until_shared(2)
    stage.until_drained()
    assert (frozen.pid, frozen.restarts) == (pid, 0)
    stage.stop()
    assert stage.problems() == []


def test_who_leaves_hands_over_at_once(servers: Servers, tmp_path: Path) -> None:
    with Stage(servers, tmp_path, session_timeout_ms=120_000, leave_group_on_shutdown=True) as stage:
        guest = stage.worker()
        stage.worker()
        stage.until_shared(2)
        guest.send(signal.SIGTERM)
        assert guest.ended() == 0
        stage.ask()
        stage.until_drained()
        stage.until_shared(1)


def test_postgres_and_kafka_are_away_for_a_while(breakable_servers: Servers, tmp_path: Path) -> None:
    servers = breakable_servers
    with Stage(servers, tmp_path) as stage:
        worker = stage.worker()
        stage.ask()
        stage.request()
        stage.until_drained()

        servers.postgres.kill()
        stage.ask()
        servers.postgres.start()
        stage.reconnect()
        stage.request()
        stage.until_drained()

        stage.request()
        servers.kafka.kill()
        stage.request()
        servers.kafka.start()
        stage.ask()
        stage.until_drained()

        servers.kafka.freeze()
        stage.request()
        written = len(worker.log())
        stage.until(lambda: len(worker.log()) > written, "the worker has noticed")
        servers.kafka.thaw()
        stage.ask()
        stage.until_drained()
        stage.stop()
        assert stage.problems() == []


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_a_server_that_may_forget_what_it_has_committed_is_refused(
    breakable_servers: Servers, tmp_path: Path, name: str
) -> None:
    with Stage(breakable_servers, tmp_path) as stage:
        setting = f"SELECT (setting = 'off')::int FROM pg_settings WHERE name = '{name}'"
        stage.connection.execute(f"ALTER SYSTEM SET {name} = off".encode())
        stage.connection.execute("SELECT pg_reload_conf()")
        stage.until(lambda: stage.one(setting) == 1, "the server has read it")
        try:
            worker = stage.worker()
            assert worker.ended() == EXIT_MISCONFIGURED
            assert f"DATABASE_URL: the server runs with {name} = off" in worker.log()
        finally:
            stage.connection.execute(f"ALTER SYSTEM RESET {name}".encode())
            stage.connection.execute("SELECT pg_reload_conf()")
            stage.until(lambda: stage.one(setting) == 0, "the server has read it")
