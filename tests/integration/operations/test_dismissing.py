"""A dismissed dead letter no longer waits, is redriven only by name, and is deleted after its retention; the decision
stays with its reason.
"""

import json
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared.operations import maintenance
from shared.postgres import dead_letters
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service with five dead letters: three defects, two rejected."""
    with Tallies(servers) as made:
        made.sql("INSERT INTO switch VALUES ('defect'), ('reject')")
        made.ask(1, 2, 3, wish="defect")
        made.ask(4, 5, wish="reject")
        made.work()
        made.sql("DELETE FROM switch")
        yield made


def waiting(tallies: Tallies) -> list[int]:
    return tallies.sql(
        "SELECT id FROM exactly_once_dead_letter WHERE redriven_at IS NULL AND dismissed_at IS NULL ORDER BY id"
    )


def gauges(tallies: Tallies) -> tuple[float | None, float | None]:
    engine = create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool)
    with engine.connect() as connection:
        dead_letters.look(connection)
    names = ("exactly_once_dead_letters_waiting", "exactly_once_dead_letters_oldest_seconds")
    count, oldest = map(REGISTRY.get_sample_value, names)
    return count, oldest


def test_a_dead_letter_is_dismissed_with_a_reason(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run("dead-letters dismiss 1 --reason test-data") == 1
    assert "add --yes" in capsys.readouterr().err
    assert waiting(tallies) == [1, 2, 3, 4, 5], "nobody has answered"

    assert tallies.run("dead-letters dismiss 1 1 --reason test-data --by ada --yes") == 0
    assert tallies.run("dead-letters dismiss 1 2 99 --reason again --by bob --yes") == 1

    assert "not waiting, or unknown: 1, 99" in capsys.readouterr().out
    assert waiting(tallies) == [3, 4, 5]
    assert [(d["command"], d["before"], d["after"]) for d in tallies.decisions()] == [
        ("dead-letters dismiss", {"ids": [1]}, {"reason": "test-data", "by": "ada", "number": 1, "letters": [1]}),
        ("dead-letters dismiss", {"ids": [1, 2, 99]}, {"reason": "again", "by": "bob", "number": 1, "letters": [2]}),
    ]
    assert tallies.run("decisions list --json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(d["id"], d["after"]["reason"]) for d in listed] == [(1, "test-data"), (2, "again")]
    assert tallies.run("decisions list") == 0
    assert "reason test-data" in capsys.readouterr().out
    assert gauges(tallies)[0] == 3


def test_what_is_decided_while_the_operator_thinks_is_no_decision_of_his(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = "UPDATE exactly_once_dead_letter SET redriven_at = clock_timestamp() WHERE id = 1"
    monkeypatch.setattr(maintenance, "confirm", lambda *_, **__: tallies.sql(decide))
    assert tallies.run("dead-letters dismiss 1 --reason test") == 1
    assert "no such dead letter waits" in capsys.readouterr().out
    assert tallies.decisions() == []


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ("--error Reject", [1, 2, 3]),
        ("--topic {asked} --error RuntimeError", [4, 5]),
        ("--all", []),
        ("--topic no", [1, 2, 3, 4, 5]),
    ],
)
def test_by_a_filter(tallies: Tallies, which: str, left: list[int]) -> None:
    line = f"dead-letters dismiss {which.format(asked=tallies.asked.topic)} --reason junk --yes"

    assert tallies.run(line) == 0

    assert waiting(tallies) == left
    count, oldest = gauges(tallies)
    assert count == len(left)
    assert oldest is not None
    assert (oldest > 0) is bool(left)


@pytest.mark.parametrize("which", ["", "1 --all", "1 --error Reject", "--all --topic x"])
def test_the_records_must_be_named(tallies: Tallies, capsys: pytest.CaptureFixture[str], which: str) -> None:
    assert tallies.run(f"dead-letters dismiss {which} --reason junk --yes") == 1
    assert "name the dead letters" in capsys.readouterr().err
    assert waiting(tallies) == [1, 2, 3, 4, 5]


def test_a_dismissed_dead_letter_is_re_driven_only_by_name(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tallies.run("dead-letters dismiss 1 2 --reason junk --yes") == 0

    assert tallies.run("dead-letters redrive --all") == 0
    assert tallies.effects() == [3, 4, 5]
    capsys.readouterr()
    assert tallies.run("dead-letters redrive 1") == 1
    assert "1: was dismissed: by decision 1" in capsys.readouterr().out
    assert tallies.run("dead-letters redrive 1 --dismissed") == 0
    assert tallies.effects() == [3, 4, 5, 1]
    assert tallies.run("dead-letters list --dismissed --json") == 0
    out = capsys.readouterr().out
    assert [(f["id"], f["dismissed_by"]) for f in json.loads(out[out.index("[\n") :])] == [(1, 1), (2, 1)]


def test_what_is_done_goes_after_its_time_and_what_waits_never(tallies: Tallies) -> None:
    assert tallies.run("dead-letters dismiss 1 --reason junk --yes") == 0
    assert tallies.run("dead-letters redrive 2") == 0
    engine = create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool)
    with engine.begin() as connection:
        assert dead_letters.prune(connection, 3_600, 100) == 0
        assert dead_letters.prune(connection, 0, 100) == 2
    assert waiting(tallies) == [3, 4, 5]
