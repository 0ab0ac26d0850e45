"""Parked records of the database port: held keys, their order, attempts, and what is taken."""

from collections.abc import Sequence

import pytest

from shared.errors import Retry
from shared.protocol.ports import Arrival, Input, NewParked, ParkedRecord
from shared.testing import until
from tests.contract.world import Slotted, World

MANY = 100


@pytest.fixture
def database(world: World) -> Slotted:
    """The database of a worker that knows both inputs."""
    database = world.database()
    database.start_positions(dict.fromkeys(world.inputs, 0))
    return database


def park(world: World, database: Slotted, *numbers: int, lane: int = 0) -> None:
    """Park events of one key, the first of them for its own sake."""
    transaction = database.begin()
    new = []
    for number in numbers:
        first = number == numbers[0]
        error = Retry("later") if first else None
        new.append(NewParked(world.delivery(number, lane).record, 0, "source", str(number), error, first=first))
    transaction.park(new)
    transaction.commit()


def chosen(database: Slotted, inputs: Sequence[Input], most: int = MANY) -> list[ParkedRecord]:
    """Choose what is due, once something is."""
    found: list[ParkedRecord] = []

    def choose() -> bool:
        found.extend(database.next_parked(inputs, most))
        return bool(found)

    until(choose, "a parked record is due")
    return found


def take(database: Slotted, parked: Sequence[ParkedRecord]) -> list[int]:
    """Take parked records, and commit; return the offsets of those that were there."""
    transaction = database.begin()
    transaction.receive(sorted({one.record.input for one in parked}), ())
    there = transaction.take(parked)
    transaction.commit()
    return [one.record.offset for one in there]


def held(world: World, database: Slotted) -> list[bool]:
    """Whether the keys of the two lanes are held, each in its own input and in the other one."""
    first, second = world.inputs
    zero, one = (key.encode() for key in world.keys)
    arrivals = [
        Arrival(source, 50, "source", f"{source} {key!r}", key) for source in (first, second) for key in (zero, one)
    ]
    transaction = database.begin()
    found = transaction.receive(world.inputs, arrivals).held
    transaction.rollback()
    return [(arrival.input, arrival.key) in found for arrival in arrivals]


def test_a_key_is_held_in_its_input_while_it_has_a_parked_record(world: World, database: Slotted) -> None:
    assert held(world, database) == [False] * 4
    park(world, database, 1, 2)
    assert held(world, database) == [True, False, False, False]
    assert take(database, chosen(database, world.inputs, 1)) == [1]
    assert held(world, database) == [True, False, False, False]
    assert take(database, chosen(database, world.inputs)) == [2]
    assert held(world, database) == [False] * 4


def test_a_key_that_is_parked_while_its_position_is_waited_for_is_held(world: World, database: Slotted) -> None:
    """A worker that stood still has polled later records of the key."""
    first, _ = world.inputs
    key = world.keys[0].encode()
    owner, late = database.begin(), world.database().begin()
    owner.receive([first], [])
    owner.park([NewParked(world.delivery(1).record, 0, "source", "1", Retry("later"), first=True)])
    owner.advance({first: 2})
    arrivals = [Arrival(first, 2, "source", "2", key)]
    received = world.while_it_waits(lambda: late.receive([first], arrivals), owner.commit)
    assert received.held == {(first, key)}
    late.rollback()


def test_the_records_of_a_key_are_chosen_in_their_order_and_as_they_were(world: World, database: Slotted) -> None:
    park(world, database, 3, 4, 10)
    found = chosen(database, world.inputs)
    assert [(one.record.offset, one.epoch, one.attempts, one.ends) for one in found] == [
        (3, 0, 1, 0),
        (4, 0, 0, 0),
        (10, 0, 0, 0),
    ]
    assert [tuple(one.record) for one in found] == [tuple(world.delivery(n).record) for n in (3, 4, 10)]


def test_those_of_other_inputs_are_not_chosen(world: World, database: Slotted) -> None:
    first, second = world.inputs
    park(world, database, 1, lane=1)
    assert database.next_parked([first], MANY) == []
    assert [one.record.input for one in chosen(database, [second])] == [second]


def test_what_is_taken_and_rolled_back_stays_and_is_taken_once(world: World, database: Slotted) -> None:
    park(world, database, 1)
    found = chosen(database, world.inputs)
    transaction = database.begin()
    assert transaction.take(found) == found
    transaction.rollback()
    other = world.database()
    assert take(other, found) == [1]
    assert take(database, found) == []


def test_what_is_set_aside_can_be_received_again(world: World, database: Slotted) -> None:
    """A redrive does so; until then, so does a duplicate."""
    first, _ = world.inputs

    def received() -> set[tuple[str, str]]:
        transaction = database.begin()
        arrivals = [Arrival(first, 50, "source", str(number), b"key") for number in (1, 2)]
        new = transaction.receive([first], arrivals).new
        transaction.commit()
        return new

    assert received() == {("source", "1"), ("source", "2")}
    park(world, database, 1, 2)
    one, _ = chosen(database, world.inputs)
    transaction = database.begin()
    assert transaction.take([one]) == [one]
    transaction.forget_received([one])
    transaction.commit()
    assert received() == {("source", "1")}


def test_an_attempt_that_fails_is_counted_and_told_to_the_next(world: World, database: Slotted) -> None:
    park(world, database, 1, 2)
    for attempts in (1, 2, 3):
        first, second = chosen(database, world.inputs)
        assert (first.attempts, first.ends, second.attempts, second.ends) == (attempts, 0, 0, 0)
        database.tried([second], first, Retry("not yet"))


def test_whoever_comes_after_a_process_that_ended_knows_and_tries_alone(world: World, database: Slotted) -> None:
    park(world, database, 1, 2)
    assert [one.ends for one in chosen(database, world.inputs)] == [0, 0]
    for ends in (1, 2, 3):
        other = world.database()
        assert [(one.record.offset, one.ends) for one in chosen(other, world.inputs)] == [(1, ends)]
    survivor = world.database()
    chosen(survivor, world.inputs)
    assert [one.ends for one in chosen(survivor, world.inputs)][:1] == [0], "it has outlived its own attempt"


def test_what_waits_is_counted(world: World, database: Slotted) -> None:
    first, second = world.inputs
    assert database.waiting(world.inputs) == {}
    park(world, database, 1, 2, 3)
    park(world, database, 1, lane=1)
    waiting = database.waiting(world.inputs)
    assert waiting is not None
    assert {source: (w.records, w.keys) for source, w in waiting.items()} == {first: (3, 1), second: (1, 1)}
    assert waiting[first].bytes > waiting[second].bytes > 0
    assert set(database.waiting([second]) or ()) == {second}


def test_a_dead_letter_that_holds_its_key_is_never_tried_nor_is_what_waits_behind_it(
    world: World, database: Slotted
) -> None:
    """Not even by a worker that chose them before it became one."""
    first, _ = world.inputs
    park(world, database, 1, 2)
    before = chosen(database, world.inputs)
    transaction = database.begin()
    transaction.receive([first], ())
    (one,) = transaction.take(before[:1])
    place = NewParked(one.record._replace(value=None), 0, "", "", Retry("never"), first=False, aside=True)
    transaction.park([place])
    transaction.commit()
    assert take(database, before) == []
    assert held(world, database) == [True, False, False, False]
    counted = (database.waiting(world.inputs) or {})[first]
    assert (counted.records, counted.keys) == (2, 1)
    database.tried(before, None, Retry())
    park(world, database, 7, lane=1)
    assert [record.record.offset for record in chosen(database, world.inputs)] == [7]
    assert database.next_parked([first], MANY) == []


def test_a_dead_letter_that_holds_its_key_and_comes_again_is_parked_in_its_place(
    world: World, database: Slotted
) -> None:
    """An operator has rewound its input to before it."""
    record = world.delivery(1).record
    for new in (
        NewParked(record._replace(value=None), 0, "", "", Retry("never"), first=True, aside=True),
        NewParked(record, 0, "source", "1", None, first=False),
    ):
        transaction = database.begin()
        transaction.park([new])
        transaction.commit()
    (one,) = chosen(database, world.inputs)
    assert (one.record.value, one.event_id) == (record.value, "1")
    assert take(database, [one]) == [1]
