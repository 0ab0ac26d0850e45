"""Dead letters are listed, shown, and redriven exactly once, even if processes die or several try at once."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.errors import Reject
from shared.operations import redrive as redriving
from shared.operations.maintenance import Context
from shared.postgres.handlers import Handlers
from shared.testing import until
from tests.faults import trail
from tests.integration.tallies import Tallies
from tests.integration.tally_topics import headers

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def break_down(tallies: Tallies, wish: str) -> None:
    tallies.sql("INSERT INTO switch VALUES (%s) ON CONFLICT DO NOTHING", wish)


def mend(tallies: Tallies) -> None:
    tallies.sql("DELETE FROM switch")


def dead_letters(tallies: Tallies) -> list[tuple[int, str, bool]]:
    """Return ids, errors and whether each was redriven."""
    return [
        tuple(row)
        for row in tallies.sql(
            "SELECT jsonb_build_array(id, error, redriven_at IS NOT NULL) FROM exactly_once_dead_letter ORDER BY id"
        )
    ]


def set_aside(tallies: Tallies, *numbers: int, wish: str = "defect") -> None:
    """Have numbers set aside."""
    break_down(tallies, wish)
    tallies.ask(*numbers, wish=wish)
    tallies.work()


def test_a_dead_letter_is_re_driven_under_the_ids_of_its_record(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.ask(1)
    set_aside(tallies, 2)
    tallies.ask(3)
    tallies.work()
    assert (tallies.effects(), dead_letters(tallies)) == ([1, 3], [(1, "RuntimeError", False)])
    mend(tallies)

    assert tallies.run("dead-letters redrive 1") == 0

    assert capsys.readouterr().out.endswith("1: re-driven\n")
    assert (tallies.effects(), dead_letters(tallies)) == ([1, 3, 2], [(1, "RuntimeError", True)])
    assert tallies.waiting() == [2]  # nothing is produced by the command itself
    tallies.work()
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1}
    assert dict(tallies.consumed())[2] == f"{tallies.name}:{tallies.asked.topic}-0.0.1.Told.0"
    assert tallies.sql("SELECT event_id FROM exactly_once_inbox WHERE event_id = 'asked-2'") == ["asked-2"]


def test_once_is_enough(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    set_aside(tallies, 1)
    mend(tallies)

    for expected in ("re-driven", "was re-driven before: at 20"):
        assert tallies.run("dead-letters redrive 1") == 0
        assert f"1: {expected}" in capsys.readouterr().out

    assert tallies.effects() == [1]
    assert tallies.run("dead-letters redrive --all") == 0
    assert "no dead letter waits" in capsys.readouterr().out


def test_what_took_effect_in_another_way_is_marked_as_done(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    """The event came again, under the same id, when its handler was fixed."""
    set_aside(tallies, 1)
    mend(tallies)
    tallies.ask(1)
    tallies.work()
    assert tallies.effects() == [1]

    assert tallies.run("dead-letters redrive 1") == 0

    assert "had taken effect already" in capsys.readouterr().out
    assert dead_letters(tallies) == [(1, "RuntimeError", True)]
    tallies.work()
    assert (tallies.effects(), tallies.numbers()) == ([1], {1: 1})


def test_and_the_other_way_round_the_inbox_drops_the_duplicate(tallies: Tallies) -> None:
    set_aside(tallies, 1)
    mend(tallies)
    assert tallies.run("dead-letters redrive 1") == 0

    tallies.ask(1)
    tallies.work()

    assert (tallies.effects(), tallies.numbers()) == ([1], {1: 1})


def test_a_dead_letter_that_fails_again_stays_with_its_new_error(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    set_aside(tallies, 1)
    set_aside(tallies, 2, wish="reject")
    mend(tallies)
    break_down(tallies, "reject")

    assert tallies.run("dead-letters redrive --all") == 1

    out = capsys.readouterr().out
    assert "1: re-driven" in out
    assert "2: failed: Reject: reject 2" in out
    assert out.endswith("2 dead letters: 1 done, 1 not done\n")
    assert tallies.effects() == [1]
    assert dead_letters(tallies) == [(1, "RuntimeError", True), (2, "Reject", False)]
    assert tallies.sql("SELECT count(*) FROM exactly_once_inbox WHERE event_id = 'asked-2'") == [0]

    mend(tallies)
    tallies.sql("UPDATE exactly_once_dead_letter SET error = 'Other', traceback = 'elsewhere' WHERE id = 2")
    break_down(tallies, "reject")
    assert tallies.run("dead-letters redrive 2") == 1
    assert dead_letters(tallies)[1] == (2, "Reject", False)
    (traceback,) = tallies.sql("SELECT traceback FROM exactly_once_dead_letter WHERE id = 2")
    assert traceback.startswith("Reject\n  tests/faults/trail.py:"), "where it failed now"
    mend(tallies)
    assert tallies.run("dead-letters redrive 2") == 0
    tallies.work()
    assert tallies.numbers() == {1: 1, 2: 1}


def test_what_cannot_be_re_driven(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.produce(b"\xff\x00 not ours", None)
    tallies.produce(b"{}", event_headers=headers("asked-7"))
    set_aside(tallies, 1)
    assert [error for _, error, _ in dead_letters(tallies)] == ["Malformed", "Malformed", "RuntimeError"]
    tallies.sql(
        "UPDATE exactly_once_dead_letter SET headers = replace(headers::text, %s, %s)::jsonb WHERE id = 3", *RENAMED
    )

    assert tallies.run("dead-letters redrive 1 2 3 9") == 1

    out = capsys.readouterr().out
    assert "1: failed: Malformed: the record has no key" in out
    assert "2: failed: Malformed: Asked cannot be read" in out
    assert "3: failed: Reject: this service no longer consumes Gone.v1" in out
    assert "9: there is no such dead letter" in out


# "Asked.v1" and "Gone.v1", as the headers are kept.
RENAMED = ("QXNrZWQudjE=", "R29uZS52MQ==")


def test_list_and_show(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.produce(b"\xff\x00\x1b[31m", b"\xfe", event_headers=[("odd", b"\x00\x1b"), ("none", None)])
    set_aside(tallies, 1)
    set_aside(tallies, 2, wish="reject")
    mend(tallies)
    assert tallies.run("dead-letters redrive 2") == 0
    capsys.readouterr()

    def listed(options: str = "") -> list[int]:
        assert tallies.run(f"dead-letters list {options} --json") == 0
        return [dead_letter["id"] for dead_letter in json.loads(capsys.readouterr().out)]

    assert listed() == [1, 3]
    assert listed("--redriven") == [2]
    assert listed("--all") == [1, 2, 3]
    assert listed("--all --error Reject") == [3]
    assert listed(f"--topic {tallies.asked.topic} --limit 1") == [1]
    assert listed("--topic other") == []

    assert tallies.run("dead-letters list --limit 1") == 0
    head, row, more = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["ID", "FROM", "OFFSET"]
    assert row.split()[:3] == ["1", tallies.source, "0"]
    assert "the oldest 1" in more

    assert tallies.run("dead-letters show 1") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out  # nothing in a record may play with the terminal
    assert '"hex": "ff001b5b33316d"' in out
    assert tallies.run("dead-letters show 3 --json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["value"] == {"trail": "k", "number": 2, "wish": "while reject"}
    assert (shown["headers"]["ce_id"], shown["error"], shown["detail"]) == ("asked-2", "Reject", "reject 2")
    first, place, *_ = shown["traceback"].splitlines()
    assert (first, place.split(":")[0]) == ("Reject", "  tests/faults/trail.py")
    assert tallies.run("dead-letters show 3") == 0
    assert f"traceback    {place}" in capsys.readouterr().out.splitlines()
    assert tallies.run("dead-letters show 4") == 1
    assert "there is no dead letter 4" in capsys.readouterr().err


def test_many_at_the_same_time(tallies: Tallies) -> None:
    set_aside(tallies, *range(12))
    mend(tallies)

    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: tallies.run("dead-letters redrive --all"), range(4)))

    assert codes == [0] * 4
    assert sorted(tallies.effects()) == list(range(12))
    tallies.work()
    assert tallies.numbers() == dict.fromkeys(range(12), 1)


def test_beside_a_worker_that_changes_the_same_aggregate(tallies: Tallies) -> None:
    """Both lock it as in any batch, so the steps are published in order."""
    set_aside(tallies, *range(10))
    mend(tallies)
    tallies.ask(*range(100, 150))
    thread = threading.Thread(target=lambda: tallies.run("dead-letters redrive --all"))
    thread.start()
    tallies.work(records=3)
    thread.join(60)
    tallies.work()

    assert sorted(tallies.effects()) == [*range(10), *range(100, 150)]
    published = [json.loads(record.value()) for record in tallies.read(tallies.told.topic)]
    assert [event["step"] for event in published] == list(range(1, 61))
    assert sum(event["number"] for event in published) == sum(range(10)) + sum(range(100, 150))


def test_a_lock_that_is_held_for_long_is_no_defect(tallies: Tallies, monkeypatch: pytest.MonkeyPatch) -> None:
    set_aside(tallies, 1)
    mend(tallies)
    monkeypatch.setattr("shared.postgres.engine.LOCK_TIMEOUT_MS", 200)
    built = trail.container(tallies.kit, tallies.settings)
    context = Context(tallies.settings, tallies.service, built.engine(), built.outbox())
    with tallies.held("SELECT FROM exactly_once_dead_letter FOR UPDATE"):
        result = redriving.one(context, Handlers(tallies.service), 1)
    built.engine().dispose()

    assert result.outcome is redriving.Outcome.FAILED
    assert "55P03" in result.detail
    assert dead_letters(tallies) == [(1, "RuntimeError", False)]  # its error is still its own
    assert tallies.run("dead-letters redrive 1") == 0


CALLS = ("find", "receive", "handle", "write_outbox", "done", "commit")
POINTS = [f"{when}-{call}" for call in CALLS for when in ("before", "after")]


def test_killed_anywhere(tallies: Tallies) -> None:
    """A process is killed at each step; each time the dead letter is handled wholly or not at all."""
    set_aside(tallies, *range(len(POINTS)))
    mend(tallies)

    def kill(index: int) -> int:
        words = [sys.executable, "-m", "tests.integration.killed_redrive", tallies.name]
        done = subprocess.run(
            [*words, tallies.settings.model_dump_json(), str(index + 1), POINTS[index]],
            cwd=ROOT,
            env={"DATABASE_URL": tallies.settings.database_url.get_secret_value(), "PATH": ""},
            timeout=60,
            check=False,
        )
        return done.returncode

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(kill, range(len(POINTS))))

    assert codes == [-signal.SIGKILL] * len(POINTS)
    held = """
        SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE datname = current_database() AND relation = 'exactly_once_dead_letter'::regclass
    """
    until(lambda: tallies.sql(held) == [0], "ended")
    committed = POINTS.index("after-commit")
    assert tallies.effects() == [committed]
    assert [number for number, (_, _, done) in enumerate(dead_letters(tallies)) if done] == [committed]
    assert tallies.run("dead-letters redrive --all") == 0
    tallies.work()
    assert sorted(tallies.effects()) == list(range(len(POINTS)))
    assert tallies.numbers() == dict.fromkeys(range(len(POINTS)), 1)


def test_an_error_is_kept_as_text_that_postgresql_can_store(tallies: Tallies) -> None:
    set_aside(tallies, 1)
    built = trail.container(tallies.kit, tallies.settings)
    context = Context(tallies.settings, tallies.service, built.engine(), built.outbox())

    redriving._failed(context, 1, Reject("NUL \x00, half a pair \ud800, " + "long " * 1_000))
    built.engine().dispose()

    (detail,) = tallies.sql("SELECT detail FROM exactly_once_dead_letter")
    assert detail.startswith("NUL \\0, half a pair \\ud800, long ")
    assert len(detail) == 2_000
