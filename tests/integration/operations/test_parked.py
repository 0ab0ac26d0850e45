"""An operator sets aside a record that is tried for ever, with or without workers at work: once, also if the next
offset moves meanwhile, and nothing is lost.
"""

import getpass
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.servers import Servers
from shared.operations import parked, survey
from shared.testing import SECONDS_MAX, until
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service where 1 took effect, 2 is tried for ever, and two of its key and one of another wait behind it."""
    with Tallies(servers, parked_records_max=0) as made:
        made.sql("INSERT INTO switch VALUES ('retry')")
        made.ask(1)
        made.work()
        made.ask(2, wish="retry")
        made.ask(3, 4)
        made.ask(5, key="other")
        made.work()
        assert (made.effects(), made.handled()) == ([1], (1, 0))
        yield made


def set_aside(tallies: Tallies, offset: int = 1) -> int:
    return tallies.run(f"positions set-aside --target {tallies.source} --offset {offset} --reason bank-is-closed --yes")


def test_the_input_goes_on_behind_it(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert set_aside(tallies) == 0

    printed = capsys.readouterr().out
    assert "of the next 3 records, 2 have the same key" in printed
    assert "is dead letter 1 now" in printed
    assert tallies.handled() == (2, 0)
    (decision,) = tallies.decisions()
    assert (decision["command"], decision["source"]) == ("positions set-aside", tallies.source)
    assert decision["before"] == {"H": 1, "offset": 1, "event_id": "asked-2"}
    assert decision["after"] == {"H": 2, "dead_letter": 1, "reason": "bank-is-closed", "by": getpass.getuser()}
    tallies.work()
    assert tallies.effects() == [1, 3, 4, 5]
    (notice,) = tallies.read(tallies.service.dead_letter_topic)
    assert b"bank-is-closed" in notice.value()
    assert notice.key() == b"k"

    tallies.sql("DELETE FROM switch")
    assert tallies.run("dead-letters redrive 1") == 0
    tallies.work()
    assert (tallies.effects(), dict(tallies.numbers())) == ([1, 3, 4, 5, 2], {1: 1, 2: 1, 3: 1, 4: 1, 5: 1})


@contextmanager
def worker(tallies: Tallies, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = tallies.process(log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(SECONDS_MAX)


def test_while_a_worker_works(tallies: Tallies, tmp_path: Path) -> None:
    """The worker holds the record, and drops it at its next attempt."""
    with worker(tallies, tmp_path / "log") as process:
        tallies.ask(6, key="other")
        until(lambda: tallies.committed().get(f"{tallies.service.lane_topic}[0]"), "it works")
        assert set_aside(tallies) == 0
        until(lambda: tallies.effects() == [1, 3, 4, 5, 6], "it goes on behind the record")
        assert process.poll() is None
    assert tallies.sql("SELECT count(*) FROM exactly_once_dead_letter") == [1]


@pytest.mark.parametrize("offset", [0, 2, 9])
def test_only_the_record_that_is_waited_for(tallies: Tallies, capsys: pytest.CaptureFixture[str], offset: int) -> None:
    assert set_aside(tallies, offset) == 1
    assert "waits at offset 1" in capsys.readouterr().err
    assert (tallies.handled(), tallies.sql("SELECT id FROM exactly_once_dead_letter"), tallies.decisions()) == (
        (1, 0),
        [],
        [],
    )


def test_a_record_that_is_handled_meanwhile_is_not_set_aside(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parked._move

    def move(*arguments: Any) -> int:
        tallies.sql("DELETE FROM switch")
        tallies.work()
        return real(*arguments)

    monkeypatch.setattr(parked, "_move", move)

    assert set_aside(tallies) == 1

    assert "has moved on meanwhile" in capsys.readouterr().err
    assert (tallies.effects(), tallies.sql("SELECT id FROM exactly_once_dead_letter")) == ([1, 2, 3, 4, 5], [])


def test_what_must_be_decided_first(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.commit(tallies.asked.topic, 0, 4)
    assert set_aside(tallies) == 1
    assert "decide this first" in capsys.readouterr().err
    tallies.sql("UPDATE exactly_once_topic SET topic_id = 'another' WHERE name = %s", tallies.asked.topic)
    assert set_aside(tallies) == 1
    assert "created again" in capsys.readouterr().err
    assert tallies.handled() == (1, 0)


def test_nothing_waits(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.sql("DELETE FROM switch")
    tallies.work()
    assert set_aside(tallies, 5) == 1
    assert "no record waits from offset 5 on" in capsys.readouterr().err
    assert tallies.run("positions set-aside --target lane-0 --reason x") == 1
    assert "is not an input" in capsys.readouterr().err
    assert tallies.run(f"positions set-aside --target {tallies.asked.topic}[9] --reason x") == 1
    assert f"{tallies.asked.topic} has no partition 9: its last is 0" in capsys.readouterr().err


def test_positions_show_claims_nothing_of_what_only_a_worker_knows(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with worker(tallies, tmp_path / "log"):
        until(lambda: "retry_later" in (tmp_path / "log").read_text(), "it has met the record")
        assert tallies.run("positions show") == 0, "there is nothing to decide"

    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith(f"{tallies.source}  ")]
    assert row.endswith("  waits at 1")
    looked = f"{survey.STANDING_SECONDS:g} s for which this command looked"
    assert lines[-1].startswith(f"{tallies.source} waits at 1: nothing was handled in the {looked}")
    assert "`retry_later` in the worker's log" in lines[-1]
    assert f"positions set-aside --target '{tallies.source}' --offset 1 " in lines[-1]
