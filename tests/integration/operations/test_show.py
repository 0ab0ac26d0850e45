"""`positions show` shows what both systems have, at any time, and sounds no alarm while workers work."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dev.servers import Servers
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def shown(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert tallies.run("positions show --json") == 0
    out = capsys.readouterr().out
    return json.JSONDecoder().raw_decode(out, out.index("{\n"))[0]  # a worker beside it may log


def test_a_new_service(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(tallies, capsys)

    assert [(i["source"], i["next_offset"], i["lag"], i["state"]) for i in found["inputs"]] == [
        (tallies.source, None, 0, "neither system knows of it yet")
    ]
    assert [(n["source"], n["published"], n["state"]) for n in found["lanes"]] == [
        ("lane-0", None, "neither system knows of it yet")
    ]


def test_at_rest(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1, 2)
    tallies.work()
    tallies.ask(3)
    found = shown(tallies, capsys)

    (source,) = found["inputs"]
    facts = ("next_offset", "epoch", "committed", "first", "end", "lag", "state", "detail")
    assert [source[name] for name in facts] == [2, 0, 2, 0, 3, 1, "waits at 2", None]
    assert source["waits"] == f"{tallies.source} waits at 2: no worker is a member of the group"
    (lane,) = found["lanes"]
    assert (lane["published"], lane["published_claim"]) == (lane["batch"], lane["claim"]) == tallies.lane()[:2]
    assert (lane["unpublished"], lane["oldest_seconds"]) == (0, None)
    assert lane["state"] == "the two systems agree; the claim is published"
    assert found["members"] == []


@pytest.mark.parametrize(
    ("die", "unpublished", "word"), [("unpublished", 3, "being published"), ("published", 1, "published")]
)
def test_what_waits(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], die: str, unpublished: int, word: str
) -> None:
    tallies.request(1, 2)
    tallies.work(die=die)
    tallies.request(3)

    (lane,) = shown(tallies, capsys)["lanes"]

    assert (lane["rows"], lane["unpublished"]) == (2, unpublished)
    assert 0 < lane["oldest_seconds"] < 60
    assert lane["state"].endswith(f"the claim is {word}")


def test_a_disagreement_is_told_in_full_below_the_tables(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1)
    tallies.work()
    tallies.forget_group()
    capsys.readouterr()

    assert tallies.run("positions show") == 1, "there is something to decide"

    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("lane-0")]
    assert row.endswith("PositionMissing")
    assert lines[-1].startswith("lane 0: the database has claimed batch 1, Kafka has no committed offset")
    assert f"`python -m services.{tallies.name} positions adopt --target 'lane-0'`" in lines[-1]


def test_no_false_alarm_while_workers_work(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """The published position and the claim are read in turn, and move some hundred times a second meanwhile."""
    tallies.ask(*range(200))
    worker = threading.Thread(target=lambda: tallies.work(records=2))
    worker.start()
    verdicts: list[str] = []
    moved: set[int] = set()
    while worker.is_alive():
        found = shown(tallies, capsys)
        verdicts += [every["state"] for every in (*found["inputs"], *found["lanes"])]
        moved.update(lane["batch"] for lane in found["lanes"])
    worker.join()

    assert len(moved) > 3  # it was looked at while it worked
    assert {comparison.partition(";")[0] for comparison in verdicts} <= {
        "the two systems agree",
        "neither system knows of it yet",
    }
