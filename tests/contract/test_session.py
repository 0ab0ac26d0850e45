"""The session of the database port holds the slot, notes what is about to be handled, and may be lost."""

from collections.abc import Sequence

import pytest

from shared.errors import DatabaseInDoubt, DatabaseUnavailable, SlotInDoubt, SlotLost
from shared.protocol.ports import Position, Record
from tests.contract.world import Slotted, World


@pytest.fixture
def database(world: World) -> Slotted:
    """The database of a worker that knows both inputs."""
    database = world.database()
    database.start_positions(dict.fromkeys(world.inputs, 0))
    return database


def test_a_session_that_ends_before_the_commit_leaves_it_in_doubt_and_nothing_done(
    world: World, database: Slotted
) -> None:
    first, _ = world.inputs
    transaction = database.begin()
    transaction.handle([world.delivery(1)])
    transaction.write_outbox()
    transaction.advance({first: 2})
    transaction.lock_claims((0, 1))  # what is written goes ahead of it
    world.end_session(database)
    with pytest.raises(DatabaseInDoubt):
        transaction.commit()
    transaction.rollback()
    database.hold_slot()
    assert database.positions([first]) == {first: Position(0, 0)}
    assert (world.effects(), world.outbox()) == ([], [])


def test_a_session_that_ends_within_a_transaction_is_a_doubt_about_the_slot(world: World, database: Slotted) -> None:
    transaction = database.begin()
    transaction.receive(world.inputs, [])
    world.end_session(database)
    with pytest.raises(SlotInDoubt):
        transaction.lock_claims((0, 1))
    transaction.rollback()
    with pytest.raises(SlotInDoubt):
        database.begin()
    with pytest.raises(SlotInDoubt):
        database.claims((0,))
    database.hold_slot()
    database.begin().rollback()


def test_a_session_that_ends_between_transactions_is_found_out_by_the_next_question(
    world: World, database: Slotted
) -> None:
    world.end_session(database)
    with pytest.raises(DatabaseUnavailable):
        database.positions(world.inputs)
    with pytest.raises(SlotInDoubt):
        database.positions(world.inputs)
    database.hold_slot()
    assert len(database.positions(world.inputs)) == 2


def test_what_a_lost_session_had_locked_is_free(world: World, database: Slotted) -> None:
    other = world.database().begin()
    database.begin().receive(world.inputs, [])
    end = world.while_it_waits(lambda: other.receive(world.inputs, []), lambda: world.end_session(database))
    assert len(end[0]) == 2
    other.rollback()


def test_a_slot_that_another_worker_has_taken_is_lost(world: World, database: Slotted) -> None:
    database.hold_slot()
    world.end_session(database)
    successor = world.database()
    with pytest.raises(DatabaseUnavailable):
        database.hold_slot()  # finds out that the session is lost
    with pytest.raises(SlotLost):
        database.hold_slot()
    successor.hold_slot()


# ---- what is about to be handled


def records(world: World, *numbers: int) -> Sequence[Record]:
    """Records of the first input; their numbers are their offsets."""
    return [world.delivery(number).record for number in numbers]


def notes(world: World) -> list[tuple[int, int, int]]:
    """Return what the next process finds: first and last offset, and how many processes ended."""
    return [(found.offset, found.last, found.ends) for found in world.database().attempts().values()]


def test_what_a_process_that_is_killed_had_in_its_hands_is_found(world: World, database: Slotted) -> None:
    database.attempt(records(world, 3, 4, 5))
    database.begin().receive(world.inputs, [])
    world.end_session(database)
    assert notes(world) == [(3, 5, 0)]
    assert notes(world) == [(3, 5, 0)], "to be read does not end it"


def test_ends_at_a_record_that_is_alone_are_counted_in_a_row(world: World, database: Slotted) -> None:
    for ends in range(1, 4):
        process = world.database()
        process.attempt(records(world, 3))
        world.end_session(process)
        assert notes(world) == [(3, 3, ends)]
    company = world.database()
    company.attempt(records(world, 3, 4))
    world.end_session(company)
    assert notes(world) == [(3, 4, 0)]


def test_what_was_handled_leaves_no_note(world: World, database: Slotted) -> None:
    database.attempt(records(world, 3))
    transaction = database.begin()
    transaction.advance({world.inputs[0]: 4})
    transaction.commit()
    assert notes(world) == []


def test_what_was_rolled_back_leaves_no_note(world: World, database: Slotted) -> None:
    """The process has outlived that note."""
    database.attempt(records(world, 3))
    transaction = database.begin()
    transaction.advance({world.inputs[0]: 4})
    transaction.rollback()
    assert notes(world) == []


def test_a_session_that_ended_leaves_its_note(world: World, database: Slotted) -> None:
    """That record may be the reason."""
    database.attempt(records(world, 3))
    transaction = database.begin()
    world.end_session(database)
    with pytest.raises(SlotInDoubt):
        transaction.lock_claims((0,))
    transaction.rollback()
    assert notes(world) == [(3, 3, 1)]


def test_a_note_below_the_position_is_of_no_interest(world: World, database: Slotted) -> None:
    database.attempt(records(world, 3))
    world.end_session(database)
    other = world.database().begin()
    other.advance({world.inputs[0]: 4})
    other.commit()
    assert notes(world) == []
