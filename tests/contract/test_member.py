"""The consuming half of the Kafka port: shares, fetches and ends."""

import pytest

from shared.errors import Fenced
from shared.protocol.ports import Assignment
from shared.testing import until
from tests.contract.world import Place, World, fetched, joined, known, quiet, settled, until_ended


def test_a_share_is_told_once_and_nothing_is_fetched_before_it_is_asked_for(world: World) -> None:
    world.produce(world.inputs[0], 1, 2)
    kafka = world.kafka()
    polled = joined(kafka)
    assert polled.assigned == Assignment(frozenset(world.inputs), frozenset({0, 1}))
    assert polled.group_metadata is not None
    for polled in quiet(kafka):
        assert (polled.records, polled.ends, polled.assigned) == ([], {}, None)


def test_nothing_is_committed_at_first(world: World) -> None:
    kafka = world.kafka()
    joined(kafka)
    assert known(kafka, world.inputs, (0, 1)) == {}
    assert known(kafka, (), ()) == {}


def test_only_what_is_asked_for_is_fetched_from_where_it_is_asked_for(world: World) -> None:
    first, second = world.inputs
    world.produce(first, *range(10))
    world.produce(second, *range(10))
    kafka = world.kafka()
    joined(kafka)
    kafka.read_from({first: 7}, (0, 1))
    assert fetched(kafka, 3)[0] == [Place(first, 7), Place(first, 8), Place(first, 9)]
    kafka.read_from({first: 9, second: 9}, (0, 1))
    found, _ = fetched(kafka, 2)
    assert sorted(found) == [Place(first, 9), Place(second, 9)]


def test_no_more_records_come_than_are_asked_for(world: World) -> None:
    for source in world.inputs:
        world.produce(source, *range(10))
    kafka = world.kafka()
    joined(kafka)
    kafka.read_from(dict.fromkeys(world.inputs, 0), (0, 1))
    found, _ = fetched(kafka, 20, most=3)
    assert sorted(found) == [Place(source, offset) for source in world.inputs for offset in range(10)]


def test_a_paused_input_rests_until_it_is_resumed_or_read_anew(world: World) -> None:
    first, second = world.inputs
    kafka = world.kafka()
    joined(kafka)
    kafka.read_from({first: 0, second: 0}, (0, 1))
    kafka.pause([first])
    world.produce(first, 1, 2)
    world.produce(second, 3)
    assert fetched(kafka, 1)[0] == [Place(second, 0)]
    assert all(not polled.records for polled in quiet(kafka))
    kafka.resume([first])
    assert fetched(kafka, 2)[0] == [Place(first, 0), Place(first, 1)]
    kafka.pause([first])
    kafka.read_from({first: 1}, (0, 1))
    assert fetched(kafka, 1)[0] == [Place(first, 1)], "a pause does not outlive a new position"


def test_an_end_lies_beyond_markers_and_what_was_aborted_is_never_seen(world: World) -> None:
    first, _ = world.inputs
    kafka = world.kafka()
    joined(kafka)
    with world.transaction(first, 1, 2):
        pass
    with world.transaction(first, 3) as abort:
        abort()
    kafka.read_from({first: 0}, (0, 1))
    found, ends = fetched(kafka, 2)
    until_ended(kafka, ends)
    assert ends == {first: 5}
    assert found == [Place(first, 0), Place(first, 1)]
    assert all(not polled.records for polled in quiet(kafka))


def test_nothing_behind_an_open_transaction_is_seen_before_it_ends(world: World) -> None:
    first, _ = world.inputs
    kafka = world.kafka()
    joined(kafka)
    world.produce(first, 1)
    with world.transaction(first, 2):
        world.produce(first, 3)
        kafka.read_from({first: 0}, (0, 1))
        found, ends = fetched(kafka, 1)
        until_ended(kafka, ends)
        assert (found, ends) == ([Place(first, 0)], {first: 1})
        assert all(not polled.records for polled in quiet(kafka))
    assert fetched(kafka, 2)[0] == [Place(first, 1), Place(first, 2)]


def test_an_end_is_told_once_and_again_when_more_has_come(world: World) -> None:
    first, _ = world.inputs
    kafka = world.kafka()
    joined(kafka)
    kafka.read_from({first: 0}, (0, 1))
    until(lambda: kafka.poll(10, 0.05).ends == {first: 0}, "the end of nothing is told")
    assert all(not polled.ends for polled in quiet(kafka))
    world.produce(first, 1)
    until(lambda: kafka.poll(10, 0.05).ends == {first: 1}, "the new end is told")


def test_the_beginning_is_the_first_offset_that_is_left(world: World) -> None:
    first, second = world.inputs
    world.produce(first, *range(5))
    world.trim(first, 3)
    kafka = world.kafka()
    joined(kafka)
    assert (kafka.beginning(first), kafka.beginning(second)) == (3, 0)
    kafka.read_from({first: 3}, (0, 1))
    assert fetched(kafka, 2)[0] == [Place(first, 3), Place(first, 4)]


def test_an_input_comes_with_its_lane_to_two_members_and_back_to_one(world: World) -> None:
    one = world.kafka(0)
    joined(one)
    for polled in settled(one, world.kafka(1)):
        assert polled.assigned is not None
        assert {source.partition for source in polled.assigned.inputs} == polled.assigned.lanes


def test_a_client_that_comes_back_to_its_slot_gets_its_share_and_nobody_elses_moves(world: World) -> None:
    one = world.kafka(0)
    joined(one)
    other = world.kafka(1)
    before, _ = settled(one, other)
    world.leave(one)
    again = world.kafka(0)
    moved = []

    def back() -> bool:
        moved.append(other.poll(1, 0.02).assigned)
        return again.poll(1, 0.02).assigned == before.assigned

    until(back, "it has its share again")
    assert set(moved) == {None}


def test_a_second_client_of_a_slot_fences_the_first(world: World) -> None:
    one = world.kafka(0)
    joined(one)
    second = world.kafka(0)
    joined(second)

    def polled_for_ever() -> bool:
        second.poll(1, 0.02)
        one.poll(1, 0.02)
        return False

    with pytest.raises(Fenced):
        until(polled_for_ever, "the first one is told")
