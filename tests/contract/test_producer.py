"""The producing half of the Kafka port: what is visible, refused and in doubt."""

from collections.abc import Callable

import pytest

from shared.errors import ContentRefused, GenerationLost, KafkaInDoubt, KafkaUnavailable, RecoveryNeeded
from shared.protocol.ports import REPORTED, Committed, Kafka
from shared.testing import until
from tests.contract.world import World, joined, known, publish, readable, settled


def test_rows_are_visible_when_they_are_committed_and_in_their_order(world: World) -> None:
    kafka = world.kafka()
    kafka.renew()
    kafka.begin()
    kafka.produce([world.row("1"), world.row("2")])
    kafka.produce([world.row("3", lane=1), world.row("4")])
    assert world.published() == []
    kafka.commit()
    kafka.confirm()
    readable(world, ["1", "2", "4", "3"])


def test_offsets_are_committed_with_the_rows_and_carry_the_claim(world: World) -> None:
    kafka = world.kafka()
    kafka.renew()
    member = joined(kafka).group_metadata
    first, second = world.inputs
    kafka.begin()
    kafka.produce([world.row("1")])
    kafka.send_offsets({second: 4}, {0: Committed(7, "a claim"), 1: Committed(0, "")}, member)
    kafka.commit()
    expected = {second: Committed(4, REPORTED), 0: Committed(7, "a claim"), 1: Committed(0, "")}
    assert known(kafka, [first, second], (0, 1)) == expected
    readable(world, ["1"])


def test_a_transaction_without_anything_in_it_commits(world: World) -> None:
    kafka = world.kafka()
    kafka.renew()
    for _ in range(2):
        kafka.begin()
        kafka.produce([])
        kafka.commit()
    publish(kafka, [world.row("1")])
    readable(world, ["1"])


def test_before_the_first_renewal_there_is_no_producer(world: World) -> None:
    kafka = world.kafka()
    for call in (kafka.begin, kafka.confirm):
        with pytest.raises(KafkaInDoubt, match="there is no producer"):
            call()


CALLS: dict[str, Callable[[Kafka, World], object]] = {
    "produce": lambda kafka, world: kafka.produce([world.row("1")]),
    "send offsets": lambda kafka, world: kafka.send_offsets({}, {0: Committed(1, "")}, joined(kafka).group_metadata),
    "commit": lambda kafka, world: kafka.commit(),
}


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_done_outside_of_a_transaction(world: World, call: str) -> None:
    kafka = world.kafka()
    kafka.renew()
    with pytest.raises(KafkaInDoubt):
        CALLS[call](kafka, world)


def test_a_transaction_is_begun_once(world: World) -> None:
    kafka = world.kafka()
    kafka.renew()
    kafka.begin()
    with pytest.raises(KafkaInDoubt):
        kafka.begin()


def test_a_new_producer_ends_what_the_old_one_left_open(world: World) -> None:
    kafka = world.kafka()
    kafka.renew()
    member = joined(kafka).group_metadata
    kafka.begin()
    kafka.produce([world.row("never")])
    kafka.send_offsets({world.inputs[0]: 1}, {0: Committed(1, "never")}, member)
    kafka.renew()
    assert known(kafka, world.inputs, (0,)) == {}
    publish(kafka, [world.row("1")])
    readable(world, ["1"])


def test_of_two_clients_of_a_slot_only_the_later_one_publishes(world: World) -> None:
    earlier, later = world.kafka(), world.kafka()
    earlier.renew()
    earlier.begin()
    earlier.produce([world.row("earlier")])
    later.renew()
    with pytest.raises(KafkaInDoubt):
        earlier.commit()
    publish(later, [world.row("later")])
    readable(world, ["later"])


def test_rows_of_a_client_that_was_replaced_are_refused(world: World) -> None:
    earlier, later = world.kafka(), world.kafka()
    earlier.renew()
    earlier.begin()
    later.renew()
    earlier.produce([world.row("earlier")])
    with pytest.raises(KafkaInDoubt):
        earlier.commit()
    assert world.published() == []


def test_offsets_of_an_open_transaction_are_not_given(world: World) -> None:
    """Nor is the earlier value: it may change in a moment."""
    kafka = world.kafka()
    kafka.renew()
    member = joined(kafka).group_metadata
    assert known(kafka, (), (0, 1)) == {}
    kafka.begin()
    kafka.send_offsets({}, {0: Committed(1, "claim")}, member)
    with pytest.raises(KafkaUnavailable):
        kafka.committed((), (0,))
    assert known(kafka, (), (1,)) == {}
    kafka.commit()
    assert known(kafka, (), (0,)) == {0: Committed(1, "claim")}


def test_a_new_producer_waits_until_what_others_have_open_has_ended(world: World) -> None:
    """A broker may forget to end a transaction (KAFKA-20734); the next commit would commit that too."""
    kafka = world.kafka()
    kafka.renew()
    with world.open_elsewhere():
        with pytest.raises(KafkaUnavailable):
            kafka.renew()
        with pytest.raises(KafkaInDoubt, match="there is no producer"):
            kafka.begin()
    kafka.renew()
    publish(kafka, [world.row("1")])
    readable(world, ["1"])


# ---- what is refused


def refused_later(kafka: Kafka, meaning: type[RecoveryNeeded]) -> None:
    """Check that all calls are refused alike until there is a new producer."""
    for call in (kafka.commit, kafka.begin):
        with pytest.raises(meaning):
            call()
    kafka.renew()


def test_offsets_of_an_outdated_generation_are_refused_with_the_whole_transaction(world: World) -> None:
    kafka = world.kafka(0)
    kafka.renew()
    outdated = joined(kafka).group_metadata
    settled(kafka, world.kafka(1))
    kafka.begin()
    kafka.produce([world.row("outdated")])
    with pytest.raises(GenerationLost):
        kafka.send_offsets({}, {0: Committed(1, "outdated")}, outdated)
    refused_later(kafka, GenerationLost)
    assert known(kafka, (), (0, 1)) == {}
    assert world.published() == []


def test_offsets_of_a_member_that_was_replaced_in_its_slot_are_refused(world: World) -> None:
    """The group is of the same generation: a static member that comes back moves nothing."""
    earlier = world.kafka()
    outdated = joined(earlier).group_metadata
    world.leave(earlier)
    later = world.kafka()  # not before: a client joins by itself
    later.renew()
    joined(later)
    later.begin()
    with pytest.raises(GenerationLost):
        later.send_offsets({}, {0: Committed(1, "outdated")}, outdated)
    later.renew()
    assert known(later, (), (0,)) == {}


def test_without_a_member_no_offsets_are_sent(world: World) -> None:
    """The broker would skip the check of the generation (KAFKA-9365)."""
    kafka = world.kafka()
    kafka.renew()
    kafka.begin()
    with pytest.raises(GenerationLost):
        kafka.send_offsets({}, {0: Committed(1, "")}, None)


def test_a_row_that_the_topic_does_not_take_is_refused_with_the_whole_transaction(world: World) -> None:
    """The offsets are on their way with the rows: either of the two calls may find it out."""
    world.limit_size()
    kafka = world.kafka()
    kafka.renew()
    member = joined(kafka).group_metadata
    for position in (1, 2):  # the simulation plays both ways in turn
        kafka.begin()
        kafka.produce([world.row("1"), world.row("2", large=True), world.row("3", lane=1)])
        with pytest.raises(ContentRefused):
            _send_and_commit(kafka, position, member)
        with pytest.raises(RecoveryNeeded):
            kafka.commit()
        kafka.renew()
    assert known(kafka, (), (0, 1)) == {}
    publish(kafka, [world.row("1")])
    readable(world, ["1"])


def _send_and_commit(kafka: Kafka, position: int, member: object) -> None:
    kafka.send_offsets({}, {0: Committed(position, "claim")}, member)
    kafka.commit()


def test_a_new_producer_may_go_on_with_the_member_that_it_had(world: World) -> None:
    kafka = world.kafka()
    kafka.renew()
    member = joined(kafka).group_metadata
    for position in range(1, 4):
        kafka.renew()
        kafka.begin()
        kafka.send_offsets({}, {0: Committed(position, f"claim {position}")}, member)
        kafka.commit()
        until(lambda: kafka.poll(1, 0.02).assigned is None, "nothing moves")
    assert known(kafka, (), (0,)) == {0: Committed(3, "claim 3")}
