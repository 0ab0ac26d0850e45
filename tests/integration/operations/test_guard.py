"""A decision is made only while no worker runs, and only after the operator confirms it."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import Servers, service_names
from shared import command
from shared.operations import maintenance
from shared.operations.maintenance import Context
from shared.postgres import slots
from shared.settings import Settings
from shared.testing import until
from tests.faults import trail
from tests.integration.tallies import Tallies

ROOT = Path(__file__).parents[3]
SERVICE = service_names()[0]
"""Any service will do."""


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        made.request(1)
        made.work(die="published")
        yield made


def test_refused_while_a_worker_holds_a_slot(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.forget_group()
    database = trail.container(tallies.kit, tallies.settings).worker_database()
    assert database.take_slot()
    try:
        assert tallies.run("positions skip --target lane-0 --yes") == 1
        assert re.search(r"are up \(slot 0 by server process \d+ for 127.0.0.1\)", capsys.readouterr().err)
        assert tallies.waiting() == [1]
    finally:
        database.close()

    assert tallies.run("positions skip --target lane-0 --yes") == 0


def test_a_worker_that_starts_meanwhile_stands_by(tallies: Tallies, monkeypatch: pytest.MonkeyPatch) -> None:
    tallies.forget_group()
    database = trail.container(tallies.kit, tallies.settings).worker_database()
    took = []
    monkeypatch.setattr(
        "shared.operations.maintenance.confirm", lambda question, yes: took.append(database.take_slot())
    )

    assert tallies.run("positions skip --target lane-0") == 0

    assert took == [False]
    assert database.take_slot()
    database.close()


def test_waits_for_a_member_that_did_not_leave(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    # Longer than it takes to copy a database back on a busy machine: the member is still there when the command looks.
    tallies.settings = tallies.settings.model_copy(update={"session_timeout_ms": 10_000})
    restore = tallies.copy()
    tallies.ask(1)
    tallies.work(leave=False)
    restore()

    assert tallies.run("positions adopt --target lane-0 --target inputs --yes") == 0

    assert re.search(r"waiting up to 20 s until Kafka drops 1 members .*-0-\w+ at 127", capsys.readouterr().err)


def test_refused_while_somebody_else_is_in_the_group(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.operations.group.Group.members", lambda _: ["a-stranger at 10.0.0.1"])
    monkeypatch.setattr("shared.operations.maintenance.wait_until", lambda condition, seconds: bool(condition()))

    assert tallies.run("positions skip --target lane-0 --yes") == 1

    assert "still has members: a-stranger at 10.0.0.1" in capsys.readouterr().err
    assert tallies.waiting() == [1]


@pytest.mark.parametrize(("answer", "code"), [("no\n", 1), ("\n", 1), ("yes\n", 0)])
def test_asks_first(tallies: Tallies, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    tallies.forget_group()
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)

        assert tallies.run("positions skip --target lane-0") == code

    os.close(ours)
    assert tallies.waiting() == ([] if code == 0 else [1])
    assert len(tallies.decisions()) == (1 if code == 0 else 0)


def test_nobody_there_to_answer(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.forget_group()

    assert tallies.run("positions skip --target lane-0") == 1

    assert "add --yes" in capsys.readouterr().err
    assert tallies.waiting() == [1]


def test_the_slots_are_free_again_after_a_refusal(tallies: Tallies) -> None:
    assert tallies.run("positions adopt --target lane-7 --yes") == 1

    tallies.work()
    assert tallies.numbers() == {1: 1}


def test_all_slots_that_a_setting_allows() -> None:
    bound = next(m.le for m in Settings.model_fields["worker_slots"].metadata if hasattr(m, "le"))
    assert bound == maintenance.SLOTS
    assert slots.LOCK_CLASS < 2**31


def test_a_worker_process_stops_says_what_to_do_and_goes_on_after_it(tallies: Tallies, tmp_path: Path) -> None:
    """All of it, as an operator sees it: the process stays alive, and holds nothing that the command needs."""
    tallies.forget_group()
    log = tmp_path / "log"
    worker = tallies.process(log)
    try:
        until(lambda: "PositionMissing" in log.read_text(), "the worker stops")
        assert tallies.run("positions adopt --target lane-0 --yes") == 0
        assert worker.poll() is None
    finally:
        worker.terminate()
    assert worker.wait(20) == 0
    tallies.work()
    assert tallies.numbers() == {1: 1}


def test_two_operators_at_once(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tallies.forget_group()
    codes: list[int] = []
    line = "positions skip --target lane-0 --yes"
    monkeypatch.setattr("shared.operations.maintenance.confirm", lambda question, yes: codes.append(tallies.run(line)))

    assert tallies.run(line) == 0

    assert codes == [1]
    assert "another command is deciding something" in capsys.readouterr().err
    assert len(tallies.decisions()) == 1


def test_the_slots_are_free_when_a_decision_is_made(tallies: Tallies) -> None:
    """They are free at once: the next worker or command must not be refused."""
    built = trail.container(tallies.kit, tallies.settings)
    with maintenance.maintenance(Context(tallies.settings, tallies.service, built.engine(), built.outbox())):
        assert not built.worker_database().take_slot()

    assert built.worker_database().take_slot()
    built.worker_database().close()
    built.engine().dispose()


def test_a_broker_that_does_not_answer_is_a_clear_error(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.kafka.topics.ADMIN_SECONDS", 1.0)
    tallies.settings = tallies.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})

    assert tallies.run("positions show") == command.EXIT_AGAIN

    output = capsys.readouterr().err
    assert "no broker answers at 127.0.0.1:1" in output
    assert output.endswith("try again\n")


def test_a_database_that_does_not_answer_is_a_clear_error(tallies: Tallies) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"services.{SERVICE}", "dead-letters", "list"],
        cwd=ROOT,
        env={
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == command.EXIT_AGAIN
    assert done.stderr.startswith(f"{SERVICE} dead-letters list: DATABASE_URL: no connection to PostgreSQL")
    assert done.stderr.endswith("try again\n")
    assert "Traceback" not in done.stderr
