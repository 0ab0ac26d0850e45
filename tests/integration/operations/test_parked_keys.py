"""An operator sees which keys wait, lets one be tried now, or gives its first record up; workers may be at work."""

import getpass
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import Servers
from tests.faults.stage import headers
from tests.integration.tallies import Tallies


def hold_up(made: Tallies, wish: str) -> None:
    """Let 2 fail as it wishes, so that 3 and 4 of its key wait behind it; 1 and 5 take effect."""
    made.sql(f"INSERT INTO switch VALUES ('{wish}')")
    made.ask(1)
    made.ask(2, wish=wish)
    made.ask(3, 4)
    made.ask(5, key="other")
    made.work(parks=1)
    assert (made.effects(), made.handled()) == ([1, 5], (5, 0))


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service where 1 took effect, 2 waits, two of its key wait behind it, and one of another key took effect."""
    with Tallies(servers) as made:
        hold_up(made, "retry")
        yield made


def test_a_key_that_waits_is_shown(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run("parked list") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["FROM", "KEY", "RECORDS", "FIRST", "EVENT"]
    assert line.split()[:5] == [tallies.source, "k", "3", "1", "Asked.v1"]
    assert "Retry: retry 2" in line

    assert tallies.run("parked list --json") == 0
    (key,) = json.loads(capsys.readouterr().out)
    assert (key["from"], key["key"], key["records"], key["offset"]) == (tallies.source, "k", 3, 1)
    assert key["attempts"] >= 1
    assert key["event_id"] == "asked-2"

    assert tallies.run(f"parked show --target {tallies.source} --key k --json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["event_id"] for one in shown["waits"]] == ["asked-2", "asked-3", "asked-4"]
    assert shown["value"]["wish"] == "while retry"
    assert "trail.py" in shown["traceback"]
    assert tallies.run(f"parked show --target {tallies.source} --key k") == 0
    printed = capsys.readouterr().out
    assert "asked-4" in printed
    assert json.loads(re.findall(r"^value +(.*)$", printed, re.MULTILINE)[0]) == shown["value"]


def test_a_key_of_a_paused_topic_is_due_and_waits_for_the_topic(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = tallies.asked.topic
    assert tallies.run(f"inputs pause {topic} --reason flood --by ada") == 0
    for words in (f"--target {tallies.source} --key k", f"--target {tallies.source}", "--all"):
        capsys.readouterr()
        assert tallies.run(f"parked retry-now {words}") == 0
        said = capsys.readouterr().out
        assert f"{topic} is paused by ada" in said
        assert f"inputs resume {topic}" in said
        assert ("within a second" in said) == (words == "--all"), "other topics may have keys that wait"
    tallies.run(f"inputs resume {topic}")
    capsys.readouterr()
    assert tallies.run("parked retry-now --all") == 0
    assert capsys.readouterr().out == "due now: whoever owns the partition tries it within a second\n"


def test_what_it_waited_for_is_back_and_it_is_tried_now(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.sql("UPDATE exactly_once_parked SET due = clock_timestamp() + interval '1 day'")
    tallies.sql("DELETE FROM switch")
    tallies.work(parks=1)
    assert tallies.effects() == [1, 5]
    assert tallies.run(f"parked retry-now --target {tallies.source} --key nobody") == 1
    assert tallies.run(f"parked retry-now --target {tallies.source} --key k") == 0
    tallies.work(parks=1)
    assert (tallies.effects(), dict(tallies.numbers())) == ([1, 5, 2, 3, 4], {1: 1, 2: 1, 3: 1, 4: 1, 5: 1})
    assert [decision["command"] for decision in tallies.decisions()] == ["parked retry-now"]
    capsys.readouterr()
    assert tallies.run("parked list --json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_record_is_given_up_and_those_behind_it_are_handled(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"parked give-up --target {tallies.source} --key k --reason bank-is-closed --yes"
    assert tallies.run(line) == 1
    assert tallies.run(f"{line} --offset 7") == 1
    assert "waits at offset 1, not at 7" in capsys.readouterr().err
    assert tallies.run(f"{line} --offset 1") == 0
    assert "2 of its key wait behind it" in capsys.readouterr().out
    (decision,) = tallies.decisions()
    assert (decision["command"], decision["source"]) == ("parked give-up", tallies.source)
    assert decision["before"] == {"key": "k", "offset": 1, "records": 1}
    assert decision["after"] == {
        "dead_letter": 1,
        "dead_letters": 1,
        "reason": "bank-is-closed",
        "by": getpass.getuser(),
    }
    tallies.work(parks=1)
    assert tallies.effects() == [1, 5, 3, 4]
    (notice,) = tallies.read(tallies.service.dead_letter_topic)
    assert b"bank-is-closed" in notice.value()

    tallies.sql("DELETE FROM switch")
    assert tallies.run("dead-letters redrive 1") == 0
    tallies.work(parks=1)
    assert (tallies.effects(), dict(tallies.numbers())) == ([1, 5, 3, 4, 2], {1: 1, 2: 1, 3: 1, 4: 1, 5: 1})


def test_the_commands_of_the_page_are_carried_out(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/parked.md shows them about another service, and what the first of them prints."""
    page = Path("docs/parked.md").read_text()
    here = {"order.events[2]": tallies.source, "01J9ZC": "k", "1234": "1"}
    lines = [shlex.split(line) for line in re.findall(r"^python -m services\.inventory (.+)$", page, re.MULTILINE)]
    assert [words[:2] for words in lines] == [["parked", name] for name in ("list", "show", "retry-now", "give-up")]
    for words in lines:
        assert tallies.run_words([here.get(word, word) for word in words]) == 0
    (head,) = re.findall(r"^FROM .*$", page, re.MULTILINE)
    assert capsys.readouterr().out.splitlines()[0].split() == head.split()


def test_a_whole_key_is_given_up(tallies: Tallies) -> None:
    line = f"parked give-up --target {tallies.source} --key k --reason gone --yes --whole-key --offset 1"
    assert tallies.run(line) == 0
    assert tallies.sql("SELECT count(*) FROM exactly_once_dead_letter") == [3]
    assert tallies.sql("SELECT count(*) FROM exactly_once_parked") == [0]


@pytest.fixture
def held(servers: Servers) -> Iterator[Tallies]:
    """A service whose dead letters hold their key: 1 took effect, 2 is one, 3 and 4 of its key wait behind it."""
    with Tallies(servers) as made:
        for route in made.service.routes:
            route.holds = True
        hold_up(made, "reject")
        yield made


def test_a_dead_letter_that_holds_its_key_is_redriven_before_those_behind_it(
    held: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    assert held.run("parked list") == 0
    assert "dead letter 1" in capsys.readouterr().out
    assert held.run("dead-letters redrive 1") == 1, "it is still rejected"
    for line in ("retry-now", "give-up --offset 1 --reason r --yes"):
        assert held.run(f"parked {line} --target {held.source} --key k") == 1
        assert "dead-letters redrive 1" in capsys.readouterr().err
    assert held.run("parked retry-now --all") == 0
    held.ask(2, wish="reject")  # a duplicate, which waits too
    held.work(parks=1)
    assert held.effects() == [1, 5]

    held.sql("DELETE FROM switch")
    assert held.run("dead-letters redrive 1") == 0
    held.work(parks=1)
    assert (held.effects(), dict(held.numbers())) == ([1, 5, 2, 3, 4], {1: 1, 2: 1, 3: 1, 4: 1, 5: 1})
    assert held.sql("SELECT count(*) FROM exactly_once_parked") == [0]


def test_a_dead_letter_that_holds_its_key_is_dismissed_and_those_behind_it_go_on(held: Tallies) -> None:
    assert held.run("dead-letters dismiss 1 --reason test --yes") == 0
    held.work(parks=1)
    assert (held.effects(), dict(held.numbers())) == ([1, 5, 3, 4], {1: 1, 3: 1, 4: 1, 5: 1})


def test_a_key_that_is_no_text_is_named_by_its_bytes(held: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    held.produce(b"{}", b"\xff", headers("asked-7"))
    held.work(parks=1)
    words = ["--target", held.source, "--key", "\udcff"]  # as Python reads the byte 0xff from the command line
    assert held.run_words(["parked", "show", *words]) == 0
    assert "\\xff" in capsys.readouterr().out
    assert held.run_words(["parked", "retry-now", *words]) == 1
    assert "dead-letters redrive 2" in capsys.readouterr().err


def test_a_dead_letter_is_not_redriven_before_an_earlier_record_of_its_key(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    for route in tallies.service.routes:
        route.holds = True
    tallies.produce(b"{", event_headers=headers("asked-6"))
    tallies.work(parks=1)
    assert tallies.run("dead-letters redrive 1") == 1
    assert "the record at offset 1 has its key, waits, and comes first" in capsys.readouterr().out
