"""The consuming half of the Kafka port, against a real broker: what is owned, what is fetched, and where it ends."""

from collections.abc import Iterator

import msgspec
import pytest
from confluent_kafka import Producer

from shared.kafka.consumer import GroupMember
from shared.protocol.ports import NOTHING, Assignment, Input, Polled
from tests.faults.stage import Stage, headers
from tests.waiting import SECONDS_MAX, until


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
    """Wait for the first assignment, and return the poll that found it."""
    for _ in range(int(SECONDS_MAX / 0.1)):
        polled = member.poll(1, 0.1)
        if polled.assigned is not None:
            return polled
    raise AssertionError("the member owns nothing")


def read(member: GroupMember, records: int, *, at_once: int = 100) -> tuple[list[int], dict[Input, int]]:
    """Poll until so many records have come; return their offsets, and the ends that were told by then."""
    offsets: list[int] = []
    ends: dict[Input, int] = {}

    def enough() -> bool:
        polled = member.poll(at_once, 0.1)
        assert len(polled.records) <= at_once
        offsets.extend(record.offset for record in polled.records)
        ends.update(polled.ends)
        return len(offsets) >= records

    until(enough, f"{records} records have come")
    return offsets, ends


def test_what_is_owned_is_told_once_and_nothing_is_fetched_yet(stage: Stage, member: GroupMember) -> None:
    stage.ask()
    polled = joined(member)
    assert polled.assigned == Assignment(frozenset(inputs(stage)), frozenset({0, 1}))
    assert polled.group_metadata is not None
    for _ in range(20):
        polled = member.poll(100, 0.05)
        assert (polled.records, polled.ends, polled.assigned) == ([], {}, None)


def test_nothing_was_committed_yet(stage: Stage, member: GroupMember) -> None:
    joined(member)
    assert member.committed(inputs(stage), (0, 1)) == {}
    assert member.committed((), ()) == {}


def test_only_what_was_asked_for_is_fetched_from_where_it_was_asked_for(stage: Stage, member: GroupMember) -> None:
    for _ in range(5):
        stage.ask()
    joined(member)
    first, second = inputs(stage)
    member.read_from({first: 7}, (0, 1))
    offsets, _ = read(member, 3)
    assert offsets == [7, 8, 9]
    member.read_from({first: 9, second: 9}, (0, 1))
    assert read(member, 2)[0] == [9, 9]


def test_no_more_records_come_than_were_asked_for(stage: Stage, member: GroupMember) -> None:
    for _ in range(10):
        stage.ask()
    joined(member)
    member.read_from(dict.fromkeys(inputs(stage), 0), (0, 1))
    assert len(read(member, 40, at_once=3)[0]) == 40


def test_what_was_fetched_before_does_not_come_after_a_new_position(stage: Stage, member: GroupMember) -> None:
    """Neither its records nor its end: an end that is believed moves the next offset over records that were not
    handled.
    """
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


def test_a_paused_input_rests_until_it_is_resumed_or_read_anew(stage: Stage, member: GroupMember) -> None:
    joined(member)
    first, second = inputs(stage)
    member.read_from({first: 0, second: 0}, (0, 1))
    member.pause([first])
    stage.ask()
    stage.ask()
    assert read(member, 4)[0] == [0, 1, 2, 3]
    assert member.poll(10, 0.5).records == []
    member.resume([first])
    assert read(member, 4)[0] == [0, 1, 2, 3]
    member.pause([first])
    member.read_from({first: 2}, (0, 1))
    assert read(member, 2)[0] == [2, 3], "a pause does not outlive a new position"


def test_a_second_member_takes_its_share_and_gives_it_back(stage: Stage, member: GroupMember) -> None:
    joined(member)
    other = GroupMember(stage.settings, stage.kit.service, slot=6)
    shares: dict[GroupMember, Assignment] = {member: NOTHING, other: NOTHING}

    def settled() -> bool:
        for one, share in shares.items():
            assigned = one.poll(1, 0.05).assigned
            shares[one] = share if assigned is None else assigned
        return all(share.lanes for share in shares.values()) and shares[member].lanes.isdisjoint(shares[other].lanes)

    until(settled, "both have a share")
    for share in shares.values():
        assert {source.partition for source in share.inputs} == share.lanes, (
            "the worker that handles a key also publishes it"
        )
    other.leave()
    other.close()

    def alone() -> bool:
        assigned = member.poll(1, 0.05).assigned
        return assigned is not None and assigned.lanes == {0, 1}

    until(alone, "everything is back", seconds=stage.settings.session_timeout_ms / 1_000 + 10)


def test_the_next_offset_ends_beyond_the_markers_of_transactions_and_nothing_aborted_is_handled(stage: Stage) -> None:
    producer = Producer(
        {"bootstrap.servers": stage.settings.kafka_bootstrap_servers, "transactional.id": f"{stage.name}-test"}
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
    producer = Producer({"bootstrap.servers": stage.settings.kafka_bootstrap_servers})
    for lane in (0, 1):
        producer.produce(stage.kit.service.lane_topic, b"who writes this?", partition=lane)
    assert producer.flush(SECONDS_MAX) == 0
    stage.worker()
    stage.ask()
    stage.request()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []
    assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0


def test_the_beginning_of_an_input(stage: Stage, member: GroupMember) -> None:
    joined(member)
    first, _ = inputs(stage)
    assert member.beginning(first) == 0
