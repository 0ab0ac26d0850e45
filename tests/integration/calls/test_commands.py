"""The operator's commands about calls: safe while callers run, and refused where they would break an order."""

import getpass
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dependency_injector import providers

from shared import command
from shared.calls import Answer, queue
from shared.calls.queue import Budget, Due, Overtaken
from shared.calls.settling import Settling
from shared.telemetry import metrics
from tests.integration.calls.paying import Pay, PayContainer, Stage

Run = Callable[[str], int]


@pytest.fixture
def run(paying: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command of the service as an operator types it; returns the exit code."""
    monkeypatch.setattr(metrics, "configure", lambda *_, **__: None)
    container = PayContainer()
    container.settings.override(providers.Object(paying.settings))
    yield lambda typed: command.run(container, typed.split())
    container.engine().dispose()


def taken(paying: Stage) -> list[Due]:
    with paying.engine.begin() as connection:
        return queue.take(connection, "bank", most=9, budget=Budget(9, 0.0), seconds=60.0, caller="test:1").calls


def test_give_up_overtakes_a_caller_that_is_asking(paying: Stage, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    paying.due("b-1")
    (asking,) = taken(paying)
    assert run("calls give-up 1 --reason gone --yes") == 0
    assert "bank may have done it" in capsys.readouterr().out
    with pytest.raises(Overtaken):
        Settling(paying.engine, paying.outbox, "pay", paying.outbox.calls).answered(asking, Answer(200, {}, b"{}"))

    assert paying.rows("SELECT state, changes FROM bill") == [("GIVEN_UP", 1)]
    assert paying.events() == [{"type": "Unpaid", "bill": "b-1", "part": 0, "why": "operator", "maybe_done": True}]
    (decision,) = paying.rows("SELECT command, source, before, after FROM exactly_once_decision")
    assert decision[:2] == ("calls give-up", "bank")
    assert decision[3] == {"reason": "gone", "maybe_done": True, "by": getpass.getuser()}
    assert run("calls give-up 1 --reason gone --yes") == 1
    assert "there is no call 1" in capsys.readouterr().err


def test_the_first_call_of_a_key_is_given_up_first(paying: Stage, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    paying.due("b-1", parts=(1, 2))
    assert run("calls give-up 2 --reason gone --yes") == 1
    assert "call 1 of the same key, b-1, comes first" in capsys.readouterr().err
    assert run("calls give-up 1 --reason gone") == 1
    assert "add --yes" in capsys.readouterr().err
    assert paying.events() == []
    for n in (1, 2):
        assert run(f"calls give-up {n} --reason gone --yes") == 0
    assert [event["part"] for event in paying.events()] == [1, 2]


def test_a_call_that_the_service_cannot_give_up_waits(
    paying: Stage, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: dict[str, Any] = {}
    monkeypatch.setattr(Pay, "given_up", lambda *_: nothing["missing"])
    paying.due("b-1")
    assert run("calls give-up 1 --reason gone --yes") == 1
    assert "it waits as before: KeyError" in capsys.readouterr().err
    assert run("calls list --stuck --json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["failure"]) == ("stuck", "KeyError: 'missing'")
    assert paying.rows("SELECT FROM exactly_once_decision") == []


def test_a_call_that_was_asked_is_not_listed_as_never_asked(
    paying: Stage, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the service cannot take counts as no attempt."""
    paying.due("b-1")
    (asking,) = taken(paying)
    Settling(paying.engine, paying.outbox, "pay", paying.outbox.calls).answered(asking, Answer(200, {}, b"no JSON"))
    capsys.readouterr()

    assert run("calls list") == 0
    (_, listed) = capsys.readouterr().out.splitlines()
    assert "  1 or more  stuck  " in listed


def test_a_call_whose_class_is_gone_is_given_up_without_an_event(
    paying: Stage, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """It made those behind it wait for ever."""
    paying.due("b-1", parts=(1, 2))
    paying.connection.execute("UPDATE exactly_once_call SET call_type = 'Gone' WHERE id = 1")
    assert run("calls give-up 1 --reason gone --yes") == 1
    assert "knows no call Gone.v1. Correct it; or, if" in capsys.readouterr().err

    assert run("calls give-up 1 --reason gone --publish-nothing --yes") == 0
    assert paying.events() == []
    assert paying.rows("SELECT after FROM exactly_once_decision") == [
        ({"reason": "gone", "maybe_done": False, "published": "nothing", "by": getpass.getuser()},)
    ]
    assert [due.id for due in taken(paying)] == [2]


def test_retry_now_brings_forward_what_is_not_being_asked(
    paying: Stage, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    paying.due("b-1", "b-2")
    first, _ = taken(paying)
    with paying.engine.begin() as connection:
        queue.again(connection, first, seconds=3_000.0, failure="no", maybe_done=True)
    assert taken(paying) == []
    assert run("calls retry-now 1 2 99") == 1
    assert "finished, or just being asked: 2, 99" in capsys.readouterr().out
    assert [due.key for due in taken(paying)] == ["b-1"]
    assert run("calls retry-now --all") == 0


def test_the_list_is_filtered_and_bounded(paying: Stage, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    paying.due("b-1", "b-2", parts=(1, 2))

    def listed(options: str) -> list[Any]:
        assert run(f"calls list --json {options}") == 0
        return [call["id"] for call in json.loads(capsys.readouterr().out)]

    assert listed("") == [1, 2, 3, 4]
    assert listed("--key b-2") == [3, 4]
    assert listed("--destination elsewhere") == []
    assert listed("--stuck") == []
    assert run("calls list --limit 3") == 0
    assert "the oldest 3; --limit shows more" in capsys.readouterr().out
    assert run("calls show 99") == 1
