"""The consumer against a real broker, beyond tests/contract: what a client has fetched before."""

from collections.abc import Iterator

import msgspec
import pytest
from confluent_kafka import Producer

from shared.kafka.consumer import GroupMember
from shared.kafka.producer import IN_ORDER
from shared.protocol.ports import Input, Polled
from shared.testing import SECONDS_MAX, until
from tests.faults.stage import Stage, headers, producer


@pytest.fixture
def member(stage: Stage) -> Iterator[GroupMember]:
    """A member of the group, in this process."""
    member = GroupMember(stage.settings, stage.kit.service, slot=5)
    yield member
    member.close()


def inputs(stage: Stage) -> list[Input]:
    """Both inputs."""
    return [Input(stage.kit.asked.topic, p) for p in (0, 1)]


def joined(member: GroupMember) -> Polled:
    """Wait for the first assignment; return the poll that found it."""
    for _ in range(int(SECONDS_MAX / 0.1)):
        polled = member.poll(1, 0.1)
        if polled.assigned is not None:
            return polled
    raise AssertionError("the member owns nothing")


def test_what_was_fetched_before_does_not_come_after_a_new_position(stage: Stage, member: GroupMember) -> None:
    """Nor does an end: a believed end moves the next offset over records that were not handled."""
    for _ in range(10):
        stage.ask(stage.keys[:2])
    joined(member)
    (source, _) = inputs(stage)
    for start in [0, 15, 3, 19, 0, 10] * 5:
        member.read_from({source: start}, (0, 1))
        found: list[int] = []

        def some(found: list[int] = found, start: int = start) -> bool:
            polled = member.poll(3, 0.05)
            found.extend(record.offset for record in polled.records)
            if polled.ends:
                assert polled.ends == {source: 20}
                assert found == list(range(start, 20)), "an end comes after all records before it"
            return len(found) > 0

        until(some, "the first records have come")
        assert found == list(range(start, start + len(found)))


def test_the_next_offset_ends_beyond_the_markers_of_transactions_and_nothing_aborted_is_handled(stage: Stage) -> None:
    producer = Producer(
        {
            "bootstrap.servers": stage.settings.kafka_bootstrap_servers,
            "transactional.id": f"{stage.name}-test",
            **IN_ORDER,
        }
    )
    producer.init_transactions(SECONDS_MAX)
    stage.worker()
    for number in range(1, 9):
        producer.begin_transaction()
        for partition, key in ((0, stage.keys[0]), (1, stage.keys[2])):
            value = msgspec.json.encode(stage.kit.asked(trail=key, number=number))
            head = list(headers(f"{key}-{number}"))
            producer.produce(stage.kit.asked.topic, value, key, partition=partition, headers=head)
        if number % 3 == 0:
            producer.flush(SECONDS_MAX)
            producer.abort_transaction(SECONDS_MAX)
        else:
            producer.commit_transaction(SECONDS_MAX)
            stage.asked[stage.keys[0]].append(number)
            stage.asked[stage.keys[2]].append(number)
    stage.until_drained()
    stage.until_read()
    stage.stop()
    assert stage.problems() == []
    assert stage.one("SELECT next_offset FROM exactly_once_position WHERE partition = 0") == 16, (
        "eight records, eight markers"
    )


def test_what_somebody_writes_to_the_topic_of_the_lanes_is_not_read(stage: Stage) -> None:
    made = producer(stage.bootstrap)
    for lane in (0, 1):
        made.produce(stage.kit.service.lane_topic, b"who writes this?", partition=lane)
    assert made.flush(SECONDS_MAX) == 0
    stage.worker()
    stage.ask()
    stage.request()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []
    assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0
