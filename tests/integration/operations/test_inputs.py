"""The commands that pause an input and let it go on, and what the other commands say of it."""

import json
import shlex
import threading
from collections.abc import Iterator

import pytest

from dev.servers import Servers
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        made.ask(1)
        made.work()
        yield made


def run(tallies: Tallies, line: str) -> int:
    return tallies.run_words(shlex.split(line))


def test_a_pause_and_its_end_are_decisions(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    topic = tallies.asked.topic
    assert run(tallies, f"inputs pause {topic} --reason 'prices are wrong' --by ada") == 0
    said = capsys.readouterr().out
    assert f"{topic} is paused by decision 1" in said
    assert f"inputs resume {topic}`" in said
    assert run(tallies, "inputs list --json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["topic"], listed["paused"], listed["by"], listed["reason"], listed["decision"]) == (
        *(topic, True, "ada", "prices are wrong", 1),
    )
    assert run(tallies, "inputs list") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["TOPIC", "STATE", "SINCE", "BY", "REASON"]
    assert line.split()[:2] == [topic, "paused"]
    assert line.endswith("ada  prices are wrong")

    assert run(tallies, f"inputs resume {topic} --by bob") == 0
    assert f"{topic} is resumed by decision 2" in capsys.readouterr().out
    assert run(tallies, "inputs list") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [topic, "consumed", "-", "-", "-"]
    paused, resumed = tallies.decisions()
    assert (paused["command"], paused["source"], paused["after"]) == (
        *("inputs pause", topic, {"reason": "prices are wrong", "by": "ada"}),
    )
    assert (resumed["command"], resumed["source"], resumed["after"]) == (
        *("inputs resume", topic, {"paused": False, "by": "bob"}),
    )
    assert (resumed["before"]["paused_by"], resumed["before"]["reason"]) == ("ada", "prices are wrong")


def test_what_cannot_be_paused_or_resumed_is_told(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    topic = tallies.asked.topic

    def refusal(words: str) -> str:
        assert run(tallies, words) == 1
        return capsys.readouterr().err

    assert f"{topic} is not paused: it was never paused" in refusal(f"inputs resume {topic}")
    nowhere = f"is not an input of {tallies.name}, which consumes {topic}"
    assert f"nowhere {nowhere}" in refusal("inputs pause nowhere --reason r")
    assert f"{topic}[0] {nowhere}" in refusal(f"inputs pause '{topic}[0]' --reason r")
    assert f"nowhere is not paused: it {nowhere}" in refusal("inputs resume nowhere")
    assert run(tallies, f"inputs pause {topic} --reason first --by ada") == 0
    told = refusal(f"inputs pause {topic} --reason second --by bob")
    assert f"{topic} is paused by ada since 20" in told
    assert "UTC: first. Nothing was changed" in told
    assert [one["after"]["by"] for one in tallies.decisions()] == ["ada"]


def test_of_two_operators_at_once_one_is_told_that_it_is_done(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    def operate(words: str) -> None:
        codes.append(run(tallies, words))

    for words in ("pause {} --reason both", "resume {}"):
        codes.clear()
        line = f"inputs {words.format(tallies.asked.topic)}"
        both = [threading.Thread(target=operate, args=(line,)) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert sorted(codes) == [0, 1]
    said = capsys.readouterr().err
    assert "is paused by " in said
    assert "somebody else has resumed it" in said
    assert len(tallies.decisions()) == 2


def test_a_topic_that_is_not_consumed_any_more_can_be_resumed(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.sql("INSERT INTO exactly_once_pause (topic, paused_by, reason, decision) VALUES ('old', 'ada', 'r', 1)")
    assert run(tallies, "inputs list") == 0
    assert "paused; not consumed any more" in capsys.readouterr().out
    assert run(tallies, "inputs resume old") == 0
    assert "does not consume it any more" in capsys.readouterr().out


def test_positions_show_says_who_has_paused_it_and_nothing_is_to_be_decided(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = tallies.asked.topic
    assert run(tallies, f"inputs pause {topic} --reason 'prices are wrong' --by ada") == 0
    tallies.ask(2, 3)
    capsys.readouterr()
    assert run(tallies, "positions show") == 0
    said = capsys.readouterr().out
    (line,) = [line.split() for line in said.splitlines() if line.startswith(f"{topic}[0]")]
    assert line[-2:] == ["2", "paused"], "its lag, and its state"
    assert f"{topic} is paused by ada since 20" in said
    assert "no worker is a member" not in said, "it does not wait for one"
    assert run(tallies, "positions show --json") == 0
    (found,) = json.loads(capsys.readouterr().out)["inputs"]
    assert "prices are wrong" in found["paused"]
    assert found["waits"] is None


def test_a_reason_of_any_text_is_shown_safely(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    topic = tallies.asked.topic
    reason = "<script>\x1b[31m\u202e" + "x" * 1_900
    assert run(tallies, f"inputs pause {topic} --reason '{reason}'") == 0
    assert run(tallies, "inputs list") == 0
    said = capsys.readouterr().out
    assert "\\x1b[31m" in said
    assert "\x1b" not in said
    for empty in ("", " "):
        with pytest.raises(SystemExit):
            run(tallies, f"inputs pause {topic} --reason '{empty}'")
        assert "it is empty: say why" in capsys.readouterr().err
