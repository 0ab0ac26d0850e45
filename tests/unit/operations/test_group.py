"""The group reports the topics' ends as their leaders did."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from shared.errors import KafkaUnavailable
from shared.operations.group import Group
from shared.protocol.ports import Input

SOURCE = Input("somewhere", 0)


def group(*offsets: int | KafkaError) -> Group:
    """Return a group whose admin client gives these answers in turn, and then the last one again."""
    left = list(offsets)

    def list_offsets(asked: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
        answers: dict[TopicPartition, Future[Any]] = {partition: Future() for partition in asked}
        found = left.pop(0) if len(left) > 1 else left[0]
        for answer in answers.values():
            if isinstance(found, KafkaError):
                answer.set_exception(KafkaException(found))
            else:
                answer.set_result(SimpleNamespace(offset=found))
        return answers

    made = Group.__new__(Group)
    made._admin = SimpleNamespace(list_offsets=list_offsets)  # type: ignore[assignment]
    return made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after a moment."""
    monkeypatch.setattr("shared.kafka.topics.ADMIN_SECONDS", 0.5)
    monkeypatch.setattr("shared.operations.group.POLL_SECONDS", 0.01)


STARTING = (
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._NOENT,  # "Failed to query partition leaders"
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
)


@pytest.mark.parametrize("code", STARTING)
def test_a_broker_that_is_just_starting_is_asked_again(code: int) -> None:
    refusal = KafkaError(code)
    assert group(refusal, refusal, 7).at_time([SOURCE], 0) == {SOURCE: 7}


@pytest.mark.parametrize("code", STARTING)
def test_for_a_while_only(code: int) -> None:
    with pytest.raises(KafkaUnavailable):
        group(KafkaError(code)).at_time([SOURCE], 0)


def test_a_leader_that_was_silent_once_is_asked_again() -> None:
    assert group(-1001, 7).at_time([SOURCE], 0) == {SOURCE: 7}


def test_an_end_that_a_leader_did_not_tell_is_no_end() -> None:
    """Librdkafka returns -1001 and no error (seen with 2.16.0)."""
    with pytest.raises(KafkaUnavailable, match=r"somewhere\[0\]"):
        group(-1001).spans([SOURCE])


def test_a_partition_without_a_record_of_that_time_has_no_offset() -> None:
    assert group(-1).at_time([SOURCE], 0) == {SOURCE: -1}
