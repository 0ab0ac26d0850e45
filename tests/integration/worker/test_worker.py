"""A worker process: its start, its end, and its cost while there is nothing to do."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import psycopg
import pytest

from dev.servers import Servers, service_names
from dev.servers.places import free_port
from shared.command import EXIT_AGAIN, EXIT_MISCONFIGURED
from shared.postgres.engine import IDLE_IN_TRANSACTION_MS
from shared.protocol.attempts import ENDS
from shared.protocol.intake import UNDECIDED_STRIKES
from shared.testing import SECONDS_MAX
from tests.faults.stage import Stage, admin

ROOT = Path(__file__).parents[3]
WAITS_FOR_LOCK = """
    SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
SERVICE = service_names()[0]
"""Any service will do."""


# ---- the end


def test_sigterm_ends_it_in_order_and_leaves_nothing_open(stage: Stage) -> None:
    worker = stage.worker(batch_records=10)
    for _ in range(30):
        stage.ask()
    stage.until(lambda: stage.one("SELECT count(*) FROM effect") > 0, "it is at work")
    worker.send(signal.SIGTERM)
    began = time.monotonic()
    assert worker.ended() == 0
    assert time.monotonic() - began < stage.settings.shutdown_grace_seconds
    assert "worker_ended" in worker.log()
    assert stage.one(LOCKS) == 0
    stage.worker()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_another_signal_ends_it_at_once_and_loses_nothing(stage: Stage, number: signal.Signals) -> None:
    with stage.gate_closed():
        worker = stage.worker()
        stage.ask(stage.keys[:1], wish="wait")
        stage.until(stage.at_gate, "the handler is at work")

        def asked_again() -> bool:
            worker.send(number)
            return not worker.running

        worker.send(number)
        stage.until(asked_again, "it ends at once", seconds=5)
        assert worker.ended() == -number
    stage.worker()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_a_handler_that_is_too_slow_ends_no_process_and_holds_up_nobody(stage: Stage) -> None:
    """A batch is made smaller; a single record is set aside, slow in Python or in PostgreSQL."""
    worker = stage.worker(handler_seconds_max=1.0)
    with stage.gate_closed():
        stage.ask(wish="nap")
        stage.ask(stage.keys[:1], wish="wait", poison=True)
        stage.ask(stage.keys[1:2], wish="sql", poison=True)
        for _ in range(5):
            stage.ask(wish="nap")
        stage.until_drained()
    dead_letters = stage.connection.execute("SELECT error, detail, traceback FROM exactly_once_dead_letter").fetchall()
    assert [dead_letter[:2] for dead_letter in dead_letters] == [
        ("HandlerTooSlow", "not done within HANDLER_SECONDS_MAX = 1")
    ] * 2
    assert all("tests/faults/trail.py:" in traceback for _, _, traceback in dead_letters)
    assert worker.restarts == 0
    assert worker.log().count("cause=") <= 1  # the assignment at the start; the session with the slot is never lost
    stage.stop()
    assert stage.problems() == []


def test_a_handler_that_waits_for_somebody_elses_lock_is_not_blamed(stage: Stage) -> None:
    worker = stage.worker(handler_seconds_max=1.0)
    stage.ask()
    stage.until_drained()
    with psycopg.connect(stage.servers.postgres.dsn(stage.name)) as other:
        other.execute("SELECT FROM trail FOR UPDATE")
        stage.ask()
        began: set[object] = set()

        def thrice() -> bool:
            began.update(row[0] for row in stage.connection.execute(WAITS_FOR_LOCK))
            return len(began) >= 3

        stage.until(thrice, "it waits again and again")
        assert "waited for a lock" in worker.log()
    stage.until_drained()
    stage.stop()
    assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0
    assert stage.problems() == []


def test_a_breakpoint_may_stand_for_as_long_as_it_takes_and_to_quit_it_counts_for_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    """It stands longer than the budgets of handler and watchdog, and than PostgreSQL's idle timeout."""
    stage.keyboard = tmp_path / "keyboard"
    os.mkfifo(stage.keyboard)
    with stage.keyboard.open("r+b", buffering=0) as keyboard:
        worker = stage.worker(debug_no_timeouts=True, handler_seconds_max=1.0, metrics_port=free_port())

        def asks(times: int) -> None:
            stage.until(lambda: worker.log().count("(Pdb)") == times, "the debugger asks")

        stage.ask(stage.keys[:1], wish="breakpoint")
        asks(1)
        began = time.monotonic()
        stage.until(lambda: time.monotonic() > began + IDLE_IN_TRANSACTION_MS / 1_000 + 1, "it stands for long")
        status, words = worker.ready()
        assert (status, "DEBUG_NO_TIMEOUTS" in words) == (503, True)
        assert "Not for production" in worker.log()
        keyboard.write(b"c\n")
        stage.until_drained()
        assert worker.log().count("cause=") <= 1  # the assignment at the start; no session was lost
        assert worker.restarts == 0

        stage.ask(stage.keys[:1], wish="breakpoint")
        asks(2)
        keyboard.write(b"q\n")
        asks(3)
        assert worker.restarts == 1
        assert "The debugger was left" in worker.log()
        keyboard.write(b"c\n")
        stage.until_drained()
    stage.stop()
    assert "batch_failed" not in worker.log()
    assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0
    assert stage.problems() == []


def test_a_handler_that_nothing_interrupts_ends_two_processes_and_not_the_third(stage: Stage) -> None:
    """The watchdog ends them after one and a half transaction timeouts; the supervisor starts the worker anew."""
    stage.ask()
    stage.ask(stage.keys[:1], wish="hang", poison=True)
    stage.ask()
    worker = stage.worker()
    stage.until_drained()
    assert worker.restarts == 2
    (error, detail, traceback), *more = stage.connection.execute(
        "SELECT error, detail, traceback FROM exactly_once_dead_letter"
    )
    assert (error, more) == ("HandlerStuck", [])
    assert detail.startswith("the watchdog ended 2 processes at it: ")
    assert "in _strain: time.sleep(60)" in traceback
    told = next(line for line in worker.log().splitlines() if "what=cycle" in line)
    for words in (f"key={stage.keys[0]}", "offset=", "handler=", "time.sleep(60)"):
        assert words in told
    assert stage.one("SELECT count(*) FROM exactly_once_stuck_record") in (0, 1)  # it is forgotten at the next start
    stage.stop()
    assert stage.problems() == []


def test_a_record_that_kills_its_process_is_set_aside_in_the_end(stage: Stage) -> None:
    """It leaves no time for last words, like the kernel's OOM killer."""
    for _ in range(50):
        stage.ask()
    stage.ask(stage.keys[:1], wish="crash", poison=True)
    for _ in range(50):
        stage.ask()
    worker = stage.worker(handler_seconds_max=0.5)
    ends: list[int | None] = []

    def rested() -> bool:
        if not worker.running:
            ends.append(worker.exitcode)
            worker.again()
        return stage.drained()

    stage.until(rested, "it is handled but for the one")
    assert set(ends) == {-signal.SIGSEGV}
    assert ENDS < len(ends) <= ENDS + 3, "in a batch, in a part or two of it, then alone"
    (error, detail), *more = stage.connection.execute("SELECT error, detail FROM exactly_once_dead_letter")
    assert (error, more) == ("ProcessEnded", [])
    assert detail.startswith(f"{ENDS} times in a row, of {ENDS}, a process was killed, ran out of memory or crashed")
    assert "retry_later" in worker.log()
    assert stage.one("SELECT count(*) FROM exactly_once_attempt") == 0
    stage.stop()
    assert stage.problems() == []


def test_a_record_that_ends_the_servers_process_each_time_is_set_aside_too(stage: Stage) -> None:
    for _ in range(3):
        stage.ask()
    stage.ask(stage.keys[:1], wish="backend", poison=True)
    stage.ask()
    worker = stage.worker(handler_seconds_max=0.5)
    stage.until_drained()
    assert worker.restarts == 0
    assert stage.connection.execute("SELECT error FROM exactly_once_dead_letter").fetchall() == [("ProcessEnded",)]
    stage.stop()
    assert stage.problems() == []


def test_a_statement_that_is_cancelled_for_one_record_only_is_that_records_fault(stage: Stage) -> None:
    """By statement_timeout, say. Others of its type are handled meanwhile, those behind it afterwards."""
    stage.ask(stage.keys[:1], wish="cancelled", poison=True)
    worker = stage.worker()

    def set_aside() -> bool:
        stage.ask(stage.keys[2:3])  # of the other partition
        return stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 1

    stage.ask(stage.keys[:2])
    stage.until(set_aside, "it is set aside")
    stage.until_drained()
    assert worker.log().count("retry_later") >= UNDECIDED_STRIKES - 1
    (error, detail) = stage.connection.execute("SELECT error, detail FROM exactly_once_dead_letter").fetchone() or (
        "",
        "",
    )
    assert error == "Undecided"
    assert "statement timeout (SQLSTATE 57014)" in detail
    stage.stop()
    assert stage.problems() == []


def _at_it(stage: Stage, log: Callable[[], str], waits: int) -> bool:
    return stage.at_gate() or log().count("retry_later") > waits


def test_processes_that_are_killed_at_a_good_record_blame_it_for_nothing(stage: Stage) -> None:
    """They may be killed often and anywhere, as long as one of them finishes."""
    with stage.gate_closed():
        stage.ask(stage.keys[:1], wish="wait")
        worker = stage.worker(handler_seconds_max=2.0)
        for _ in range(ENDS + 3):
            waits = worker.log().count("retry_later")
            stage.until(partial(_at_it, stage, worker.log, waits), "it is at it, or waits for it")
            worker.send(signal.SIGKILL)
            worker.again()
    stage.until_drained()
    stage.stop()
    assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0
    assert stage.problems() == []


def test_a_worker_that_does_not_end_within_its_grace_is_ended_by_the_watchdog(stage: Stage) -> None:
    with stage.gate_closed():
        worker = stage.worker(shutdown_grace_seconds=1.0)
        stage.ask(stage.keys[:1], wish="wait")
        stage.until(stage.at_gate, "the handler is at work")
        worker.stopped = True
        worker.send(signal.SIGTERM)
        assert worker.ended(seconds=10) == EXIT_AGAIN
        assert "what=stopping" in worker.log()
    stage.worker()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


# ---- rest


def test_an_idle_worker_writes_nothing_and_asks_little(stage: Stage) -> None:
    stage.worker()
    stage.ask()
    stage.until_drained()
    stage.until_reported()

    def used() -> tuple[int, int]:
        """Return transactions and rows written, without autovacuum's, which writes statistics of the catalogs."""
        row = stage.connection.execute("""
            SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
                   (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables)
        """).fetchone()
        assert row is not None
        return row[0], row[1]

    written, since = -1, time.monotonic()

    def settled() -> bool:
        """Return whether no server process reported counts for 3 s; each does once a second, a busy one later."""
        nonlocal written, since
        if used()[1] != written:
            written, since = used()[1], time.monotonic()
        return time.monotonic() > since + 3

    stage.until(settled, "all counts are told")
    before, began = used(), time.monotonic()
    stage.until(lambda: time.monotonic() > began + 5, "some time has passed")
    after, seconds = used(), time.monotonic() - began
    assert after[1] == before[1], "nothing is written"
    assert after[0] - before[0] < 6 * seconds, "one look a second into the outbox, and some of the observer"


def test_it_is_ready_while_it_works(stage: Stage) -> None:
    worker = stage.worker(metrics_port=free_port())
    stage.until(lambda: worker.ready()[0] == 200, "it is ready")
    stage.until(lambda: worker.ready()[1] == "working: 2 inputs, 2 lanes\n", "it owns everything")
    stage.stop()


# ---- the start


@pytest.fixture
def surrounding(servers: Servers) -> Iterator[dict[str, str]]:
    """The environment of a real service with an empty database."""
    name = f"{SERVICE}-{uuid.uuid4().hex[:8]}"
    servers.postgres.create_database(name)
    yield {
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka.bootstrap,
        "DATABASE_URL": servers.postgres.dsn(name),
        "PATH": os.environ["PATH"],
    }
    servers.postgres.drop_database(name)


def run(environment: Mapping[str, str], command: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Run a command of a service; return its exit code and what it wrote to standard error."""
    done = subprocess.run(
        (sys.executable, "-m", f"services.{SERVICE}", command),
        env={"PYTHONPATH": str(ROOT), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": None}, ["KAFKA_BOOTSTRAP_SERVERS: Field required"]),
        ({"DATABASE_URL": None, "PARTITIONS": "0"}, ["DATABASE_URL: Field required", "PARTITIONS: Input should be"]),
        ({"DATABASE_URL": "mysql://user:secret@host/db"}, ["DATABASE_URL: must be a libpq URL"]),
        ({"SESSION_TIMEOUT_MS": "soon"}, ["SESSION_TIMEOUT_MS: Input should be a valid integer"]),
        ({"GROUP_PROTOCOL": "eager"}, ["GROUP_PROTOCOL: Input should be 'classic' or 'consumer'"]),
        ({}, [f"the database of {SERVICE} has no tables yet", f"python -m services.{SERVICE} migrate"]),
    ],
    ids=["no broker", "two at once", "another database", "no number", "no such choice", "no tables"],
)
def test_what_must_be_mended_before_a_start_is_reported_in_one_line_and_with_its_own_exit_code(
    surrounding: dict[str, str], tmp_path: Path, changes: dict[str, str | None], words: list[str]
) -> None:
    environment = {name: value for name, value in (surrounding | changes).items() if value is not None}
    code, output = run(environment, "worker", tmp_path)
    assert code == EXIT_MISCONFIGURED
    for part in words:
        assert part in output
    assert "Traceback" not in output
    assert "secret" not in output


def test_a_broker_that_is_not_there_is_asked_for_again(surrounding: dict[str, str], tmp_path: Path) -> None:
    """It may be starting; the supervisor restarts it."""
    assert run(surrounding, "migrate", tmp_path)[0] == 0
    environment = surrounding | {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    code, output = run(environment, "worker", tmp_path)
    assert code == EXIT_AGAIN
    assert f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {environment['KAFKA_BOOTSTRAP_SERVERS']}" in output


def test_a_database_that_is_not_there_is_asked_for_again(surrounding: dict[str, str], tmp_path: Path) -> None:
    url = f"postgresql://a:secret@127.0.0.1:{free_port()}/b"
    code, output = run(surrounding | {"DATABASE_URL": url}, "worker", tmp_path)
    assert code == EXIT_AGAIN
    assert "Connection refused" in output
    assert "Traceback" not in output
    assert "secret" not in output


def test_topics_that_are_missing_are_named_with_the_command_that_makes_them(stage: Stage) -> None:
    topic = stage.kit.told.topic
    admin(stage.servers).delete_topics([topic])[topic].result(SECONDS_MAX)
    worker = stage.worker()
    assert worker.ended() == EXIT_MISCONFIGURED
    assert f"Kafka has no topic {topic}; create with `python -m services.{stage.name} topics`" in worker.log()
