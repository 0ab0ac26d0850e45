"""What the group says of the topics' ends is what their leaders said."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from shared.errors import KafkaUnavailable
from shared.operating.group import Group
from shared.ports import Input

SOURCE = Input("somewhere", 0)


def group(offset: int) -> Group:
    """A group whose admin client gives `offset` for everything."""

    def list_offsets(asked: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
        answers: dict[TopicPartition, Future[Any]] = {partition: Future() for partition in asked}
        for answer in answers.values():
            answer.set_result(SimpleNamespace(offset=offset))
        return answers

    made = Group.__new__(Group)
    made._admin = SimpleNamespace(list_offsets=list_offsets)  # type: ignore[assignment]
    return made


def test_an_end_that_a_leader_did_not_tell_is_no_end() -> None:
    """Librdkafka gives -1001 for it, and no error (seen with 2.16.0)."""
    with pytest.raises(KafkaUnavailable, match=r"somewhere\[0\]"):
        group(-1001).spans([SOURCE])


def test_a_partition_without_a_record_of_that_time_has_no_offset() -> None:
    assert group(-1).at_time([SOURCE], 0) == {SOURCE: -1}
