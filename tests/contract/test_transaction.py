"""The transaction of the database port: positions, inbox, handlers, outbox and claims, all or nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.errors import DatabaseUnavailable, HandlingFailed, Reject
from shared.protocol.ports import Arrival, Claim, Input, NewDeadLetter, Position, Transaction
from tests.contract.world import Place, Slotted, World

MANY = 100


@pytest.fixture
def database(world: World) -> Slotted:
    """The database of a worker that knows both inputs."""
    database = world.database()
    database.start_positions(dict.fromkeys(world.inputs, 0))
    return database


def committed(database: Slotted, act: Callable[[Transaction], Any]) -> Any:
    """Call `act` in a transaction of its own."""
    transaction = database.begin()
    found = act(transaction)
    transaction.commit()
    return found


def claimed(database: Slotted, limits: dict[int, int]) -> dict[int, Claim]:
    """Claim, and commit."""
    found: dict[int, Claim] = committed(database, lambda transaction: transaction.claim(limits, ())[0])
    return found


# ---- positions


def test_positions_move_forward_and_never_back(world: World, database: Slotted) -> None:
    first, second = world.inputs
    committed(database, lambda transaction: transaction.advance({first: 7}))
    committed(database, lambda transaction: transaction.advance({first: 3, second: 1}))
    assert database.positions(world.inputs) == {first: Position(7, 0), second: Position(1, 0)}


def test_a_position_is_started_once_and_only_by_its_start(world: World) -> None:
    first, second = world.inputs
    database = world.database()
    committed(database, lambda transaction: transaction.advance({first: 5}))
    assert database.positions(world.inputs) == {}
    database.start_positions({first: 3})
    database.start_positions({first: 8, second: 9})
    assert database.positions(world.inputs) == {first: Position(3, 0), second: Position(9, 0)}


def test_what_is_not_there_is_left_out(world: World) -> None:
    first, second = world.inputs
    database = world.database()
    database.start_positions({second: 4})
    transaction = database.begin()
    assert transaction.receive([first, second], [])[0] == {second: Position(4, 0)}
    assert set(transaction.lock_claims((1, 9))) == {1}
    transaction.rollback()
    assert set(database.claims((0, 9))) == {0}


def test_a_position_that_is_locked_is_waited_for_and_read_as_it_was_left(world: World, database: Slotted) -> None:
    """A worker that stood still sees what its successor has handled."""
    first, _ = world.inputs
    owner, late = database.begin(), world.database().begin()
    owner.receive([first], [])
    owner.advance({first: 7})
    assert world.while_it_waits(lambda: late.receive([first], []), owner.commit) == (
        {first: Position(7, 0)},
        set(),
        set(),
    )
    late.rollback()


def test_a_lock_that_does_not_come_ends_the_wait_and_not_the_session(world: World, database: Slotted) -> None:
    first, _ = world.inputs
    other = world.database()
    world.make_impatient(other)
    owner, late = database.begin(), other.begin()
    owner.receive([first], [])
    with pytest.raises(DatabaseUnavailable):
        late.receive([first], [])
    late.rollback()
    owner.commit()
    committed(other, lambda transaction: transaction.receive([first], []))


# ---- inbox


def received(transaction: Transaction, source: Input, *ids: tuple[str, str]) -> set[tuple[str, str]]:
    """Receive events at offset 5 of `source`."""
    return transaction.receive([source], [Arrival(source, 5, *identity) for identity in ids]).new


def test_the_inbox_gives_what_it_has_not_seen(world: World, database: Slotted) -> None:
    first, second = world.inputs
    one, two, three = (("source", str(number)) for number in range(3))
    assert committed(database, lambda transaction: received(transaction, first, one, two, one)) == {one, two}
    transaction = database.begin()
    assert received(transaction, second, three, one) == {three}
    assert received(transaction, first, three) == set(), "not even within one transaction"
    assert received(transaction, first, ("another source", "0")) == {("another source", "0")}
    assert received(transaction, first) == set()
    transaction.commit()


def test_the_inbox_does_not_take_what_is_below_the_next_offset(world: World, database: Slotted) -> None:
    """A worker that stood still must not make a record a duplicate that its successor has set aside."""
    first, second = world.inputs
    committed(database, lambda transaction: transaction.advance({first: 3, second: 1}))
    arrivals = [
        Arrival(first, 2, "source", "old"),
        Arrival(first, 3, "source", "new"),
        Arrival(second, 0, "source", "old too"),
        Arrival(second, 7, "source", "newer"),
    ]
    positions, new, _ = committed(database, lambda transaction: transaction.receive(world.inputs, arrivals))
    assert positions == {first: Position(3, 0), second: Position(1, 0)}
    assert new == {("source", "new"), ("source", "newer")}
    left = [("source", "old"), ("source", "old too")]
    assert committed(database, lambda transaction: received(transaction, first, *left)) == set(left)


def test_what_comes_late_finds_the_next_offset_as_its_owner_left_it(world: World, database: Slotted) -> None:
    first, _ = world.inputs
    owner, late = database.begin(), world.database().begin()
    received(owner, first, ("source", "1"))
    owner.advance({first: 6})
    event = ("source", "2")
    assert world.while_it_waits(lambda: received(late, first, event), owner.commit) == set()
    late.rollback()


@pytest.mark.parametrize("kept", [True, False], ids=["committed", "rolled back"])
def test_who_receives_the_same_event_waits_and_gets_it_if_the_other_does_not(
    world: World, database: Slotted, kept: bool
) -> None:
    event = ("source", "1")
    first, second = world.inputs
    one, other = database.begin(), world.database().begin()
    assert received(one, first, event) == {event}
    found = world.while_it_waits(lambda: received(other, second, event), one.commit if kept else one.rollback)
    assert found == (set() if kept else {event})
    other.rollback()


# ---- handlers


def test_a_handlers_effect_and_what_it_publishes_are_committed_together(world: World, database: Slotted) -> None:
    transaction = database.begin()
    transaction.handle([world.delivery(1), world.delivery(2, lane=1), world.delivery(3)])
    transaction.write_outbox()
    transaction.write_outbox()  # nothing is left to be written
    assert (world.effects(), world.outbox()) == ([], [])
    transaction.commit()
    assert sorted(world.effects()) == [1, 2, 3]
    assert len(set(world.outbox())) == 3


def test_the_same_event_publishes_under_the_same_id_however_often_it_is_handled(
    world: World, database: Slotted
) -> None:
    def ids() -> set[str]:
        transaction.handle([world.delivery(1), world.delivery(2)])
        transaction.write_outbox()
        _, rows = transaction.claim({0: MANY}, ())
        return {row.event_id for row in rows}

    found = []
    for _ in range(2):
        transaction = database.begin()
        found.append(ids())
        transaction.rollback()
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_a_record_that_fails_is_named_with_the_reason_and_nothing_of_its_batch_stays(
    world: World, database: Slotted
) -> None:
    welcome, rejected = world.delivery(1), world.delivery(2, lane=1, rejected=True)
    transaction = database.begin()
    transaction.advance({world.inputs[0]: 2})
    received(transaction, world.inputs[0], ("test", "1"))
    with pytest.raises(HandlingFailed) as failure:
        transaction.handle([welcome, rejected])
    assert failure.value.record == rejected.record
    assert isinstance(failure.value.__cause__, Reject)
    transaction.rollback()
    assert (world.effects(), world.outbox()) == ([], [])
    assert database.positions(world.inputs[:1]) == {world.inputs[0]: Position(0, 0)}
    new = committed(database, lambda transaction: received(transaction, world.inputs[0], ("test", "1")))
    assert new == {("test", "1")}


def test_what_is_set_aside_is_kept_and_published(world: World, database: Slotted) -> None:
    """Readers of the dead letters consume it as they do any event: once."""
    known, unreadable = world.delivery(1), world.delivery(2, lane=1)
    transaction = database.begin()
    transaction.set_aside(
        [NewDeadLetter(known.record, 0, known.envelope, Reject()), NewDeadLetter(unreadable.record, 0, None, Reject())]
    )
    transaction.write_outbox()
    assert (world.dead_letters(), world.outbox()) == ([], [])
    transaction.commit()
    assert world.dead_letters() == [Place(*known.record[:2]), Place(*unreadable.record[:2])]
    assert len(set(world.outbox())) == 2
    assert world.effects() == []


# ---- claims


def test_the_rows_of_a_claim_that_is_not_published_come_with_those_of_the_new_ones(
    world: World, database: Slotted
) -> None:
    waiting = world.request_at_once(0)
    claimed(database, {0: MANY})
    new = world.request_at_once(1)
    left = world.request_at_once(0)
    transaction = database.begin()
    claims, rows = transaction.claim({1: MANY}, (0,))
    assert (set(claims), [row.event_id for row in rows]) == ({1}, [waiting, new])
    transaction.commit()
    assert world.outbox() == [waiting, new, left]


def test_a_claim_names_the_first_rows_of_each_lane_in_their_order(world: World, database: Slotted) -> None:
    first = [world.request_at_once(0) for _ in range(3)]
    second = world.request_at_once(1)
    transaction = database.begin()
    before = transaction.lock_claims((0, 1))
    assert {lane: claim[::2] for lane, claim in before.items()} == {0: (0, 0), 1: (0, 0)}
    assert before[0].claim_id == ""
    made, rows = transaction.claim({0: 2, 1: 2}, ())
    assert {lane: claim[::2] for lane, claim in made.items()} == {0: (1, 2), 1: (1, 1)}
    assert len({claim.claim_id for claim in made.values()}) == 2
    assert [row.event_id for row in rows] == [*first[:2], second]
    assert [row.event_id for row in transaction.claimed((1, 0))] == [*first[:2], second]
    assert [row.key for row in transaction.claimed((1,))] == [world.keys[1]]
    transaction.commit()
    assert database.claims((0, 1)) == made


def test_a_lane_without_rows_is_left_as_it_is(world: World, database: Slotted) -> None:
    world.request_at_once(1)
    before = database.claims((0,))
    assert set(claimed(database, {0: MANY, 1: MANY})) == {1}
    assert database.claims((0,)) == before


def test_what_a_handler_has_published_is_claimed_in_the_same_transaction(world: World, database: Slotted) -> None:
    transaction = database.begin()
    transaction.handle([world.delivery(1)])
    transaction.write_outbox()
    claims, rows = transaction.claim({0: MANY, 1: MANY}, ())
    (claim,) = claims.values()
    assert (claim.position, claim.rows, len(rows)) == (1, 1, 1)
    assert transaction.claimed((0,)) == rows
    transaction.commit()


def test_forgotten_rows_are_gone_and_the_claim_keeps_its_number(world: World, database: Slotted) -> None:
    ids = [world.request_at_once(0) for _ in range(3)]
    made = claimed(database, {0: 2})
    transaction = database.begin()
    transaction.forget((0,))
    assert transaction.lock_claims((0,)) == {0: made[0]._replace(rows=0)}
    assert transaction.claimed((0,)) == []
    second, _ = transaction.claim({0: MANY}, ())
    assert second[0][::2] == (2, 1)
    assert second[0].claim_id != made[0].claim_id
    transaction.commit()
    assert world.outbox() == ids[2:]


def test_a_claim_that_is_made_smaller_keeps_its_number_under_another_id(world: World, database: Slotted) -> None:
    ids = [world.request_at_once(0) for _ in range(4)]
    made = claimed(database, {0: MANY})
    transaction = database.begin()
    less = transaction.claim_less({0: 2})
    assert less[0][::2] == (1, 2)
    assert less[0].claim_id != made[0].claim_id
    assert [row.event_id for row in transaction.claimed((0,))] == ids[:2]
    transaction.forget((0,))
    transaction.commit()
    assert world.outbox() == ids[2:], "what it lets go of waits again"


def test_a_row_with_a_lower_id_that_commits_late_is_claimed_later(world: World, database: Slotted) -> None:
    """So claims are lists of ids; a cursor would pass it."""
    with world.request(0) as late:
        early = world.request_at_once(1)
        assert not database.unpublished((0,))
        assert database.unpublished((1,))
        assert set(claimed(database, {0: MANY, 1: MANY})) == {1}
    assert world.outbox() == [late, early]
    assert database.unpublished((0,))
    assert not database.unpublished((1,)), "its row is claimed"
    assert database.unpublished((0, 1))
    transaction = database.begin()
    transaction.forget((1,))
    claims, rows = transaction.claim({0: MANY, 1: MANY}, ())
    assert set(claims) == {0}
    assert [row.event_id for row in rows] == [late]
    transaction.commit()


def test_a_claim_is_waited_for_and_found_as_it_was_left(world: World, database: Slotted) -> None:
    world.request_at_once(0)
    owner, late = database.begin(), world.database().begin()
    owner.lock_claims((0, 1))
    made, _ = owner.claim({0: MANY}, ())
    assert world.while_it_waits(lambda: late.lock_claims((0,)), owner.commit) == made
    late.rollback()


def test_a_request_that_is_under_way_holds_up_no_claim(world: World, database: Slotted) -> None:
    """It refers to its lane's row until it commits; a stronger lock would wait for every request."""
    world.request_at_once(0)
    with world.request(1):
        transaction = database.begin()
        transaction.lock_claims((0, 1))
        transaction.claim({0: MANY, 1: MANY}, ())
        transaction.commit()


def test_what_is_rolled_back_was_never_claimed_forgotten_or_set_aside(world: World, database: Slotted) -> None:
    event_id = world.request_at_once(0)
    made = claimed(database, {0: MANY})
    late = world.delivery(1)
    transaction = database.begin()
    transaction.forget((0,))
    transaction.set_aside([NewDeadLetter(late.record, 0, None, Reject())])
    transaction.write_outbox()
    transaction.claim({0: MANY, 1: MANY}, ())
    transaction.rollback()
    assert database.claims((0,)) == made
    assert (world.outbox(), world.dead_letters()) == ([event_id], [])
