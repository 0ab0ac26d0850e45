"""The balance sheet's reader asks again while a partition's leader is not known to all."""

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException

from dev.balance import topics
from dev.balance.topics import LATEST, Topics

Answer = int | KafkaException


class Admin:
    """An admin client that gives the next answer, once: it would repeat itself."""

    answers: Iterator[Answer]

    def __init__(self, _: object) -> None:
        self._asked = False

    def list_offsets(self, asked: dict[Any, Any], **_: object) -> dict[Any, Future[Any]]:
        assert not self._asked
        self._asked = True
        answer = next(Admin.answers)
        (partition,) = asked
        future: Future[Any] = Future()
        if isinstance(answer, KafkaException):
            future.set_exception(answer)
        else:
            future.set_result(SimpleNamespace(offset=answer))
        return {partition: future}


def ask(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> object:
    Admin.answers = iter(answers)
    monkeypatch.setattr(topics, "AdminClient", Admin)
    return Topics("")._offsets([("t", 0)], LATEST, IsolationLevel.READ_COMMITTED)


def error(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


@pytest.mark.parametrize("code", topics.NO_LEADER_YET)
def test_an_election_is_waited_for_with_a_new_client(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    assert ask(monkeypatch, error(code), 7) == {("t", 0): 7}


def test_a_leader_that_did_not_answer_has_no_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, -1001, 7) == {("t", 0): 7}


def test_it_does_not_ask_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "ANSWER_SECONDS", -1.0)

    with pytest.raises(TimeoutError, match="did not answer"):
        ask(monkeypatch, -1001)
    with pytest.raises(KafkaException):
        ask(monkeypatch, error(KafkaError.UNKNOWN_LEADER_EPOCH))


def test_other_errors_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KafkaException):
        ask(monkeypatch, error(KafkaError.TOPIC_AUTHORIZATION_FAILED), 7)
