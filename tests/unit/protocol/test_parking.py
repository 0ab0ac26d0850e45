"""A record that has to wait parks its key, and all others go on."""

import math
from collections.abc import Callable, Iterable

import pytest

from shared.errors import DatabaseUnavailable, HandlerStuck, ParkingFull, Reject, Retry, ServiceBroken
from shared.protocol.intake import KEYS_IN_A_ROW, STRIKES
from shared.protocol.parking import Bounds
from tests.simulation.faults import Fault
from tests.simulation.postgres import Session
from tests.unit.protocol.cycle_scene import A, B, Worker, World, count

ROOM = Bounds(100, 10_000, 10, math.inf)


@pytest.fixture
def world() -> World:
    """A world in which one worker gets both inputs and both lanes."""
    world = World()
    world.assign(A, B)
    return world


def failing(*words: str, error: Callable[[], Exception] = Retry) -> Callable[[str], Iterable[str]]:
    """Return a handler that fails on some words."""

    def handle(word: str) -> Iterable[str]:
        if word in words:
            raise error()
        return (word,)

    return handle


def good(word: str) -> Iterable[str]:
    return (word,)


def worker(world: World, *, parked: Bounds | None = ROOM, retries: int = 0, records: int = 100) -> Worker:
    return world.worker(parked=parked, retries=retries, records=records).started()


def parked(world: World) -> list[str]:
    return [(one.record.value or b"").decode() for _, one in sorted(world.server.parked.items())]


def test_a_key_waits_and_the_others_of_its_partition_go_on_in_order(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "apple", "ant", "yak", "axe", "yam")
    one.settle()
    assert (world.effects, parked(world)) == (["apple", "yak", "yam"], ["ant", "axe"])
    assert (world.position(A), one.cycle.parked()) == (5, {})

    world.produce(A, "ape")
    one.settle()
    one.retry()
    assert (world.effects, parked(world)) == (["apple", "yak", "yam"], ["ant", "axe", "ape"])

    world.handle = good
    one.drain()
    assert world.effects == ["apple", "yak", "yam", "ant", "axe", "ape"]
    world.produce(A, "auk")
    one.settle()
    assert world.effects[-1] == "auk", "the key is free"
    assert sorted(world.published) == sorted(world.effects)


def test_what_is_parked_is_told_to_whoever_asks_and_counted(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant", "axe", "yak")
    told = [(new.record.value, new.error is not None, new.first) for p in one.settle() for new in p.parked]
    assert told == [(b"ant", True, True), (b"axe", False, False)]
    assert {source: (w.records, w.keys) for source, w in one.cycle.waiting.items()} == {A: (2, 1)}


def test_a_duplicate_of_what_is_parked_is_dropped(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant", "ant", "axe")
    one.settle()
    world.produce(A, "ant", "axe")
    one.settle()
    assert parked(world) == ["ant", "axe"]
    world.handle = good
    one.drain()
    assert world.effects == ["ant", "axe"]


def test_keys_are_those_of_their_partition(world: World) -> None:
    """Partitions have no order between them."""
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant")
    world.produce(B, "axe")
    one.settle()
    assert (world.effects, parked(world)) == (["axe"], ["ant"])


def test_a_retry_that_fails_fails_no_other_key_and_no_batch(world: World) -> None:
    world.handle = failing("ant", "yak")
    one = worker(world)
    world.produce(A, "ant", "ape", "yak", "yam")
    one.settle()
    world.handle = failing("ant")
    world.produce(B, "bee")
    one.run()
    for _ in range(8):
        one.retry()
    assert (world.effects, parked(world)) == (["bee", "yak", "yam"], ["ant", "ape"])


def test_attempts_are_counted_and_a_record_becomes_a_dead_letter_if_they_have_a_limit(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world, retries=2)
    world.produce(A, "ant", "axe")
    one.settle()
    one.drain()
    assert [dead_letter.record.value for dead_letter in world.dead_letters] == [b"ant"]
    assert world.effects == ["axe"]


@pytest.mark.parametrize("error", [Reject, KeyError])
def test_what_can_never_succeed_becomes_a_dead_letter_and_the_next_of_its_key_goes_on(
    world: World, error: Callable[[], Exception]
) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant", "axe")
    one.settle()
    world.handle = failing("ant", error=error)
    one.drain()
    assert [(d.record.value, type(d.error)) for d in world.dead_letters] == [(b"ant", error)]
    assert world.effects == ["axe"]


def test_a_parked_record_at_which_the_watchdog_ended_processes_is_set_aside(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant", "axe")
    one.settle()
    one.cycle.beware(A, 0, STRIKES - 1, HandlerStuck())
    one.retry()
    assert world.dead_letters == []
    one.cycle.beware(A, 0, STRIKES, HandlerStuck())
    one.drain()
    assert ([type(d.error) for d in world.dead_letters], world.effects) == ([HandlerStuck], ["axe"])


def test_what_no_handler_takes_any_more_becomes_a_dead_letter(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant")
    one.settle()
    ((at, row),) = world.server.parked.items()
    world.server.parked[at] = row._replace(record=row.record._replace(value=b"unconsumed"))
    one.drain()
    (dead_letter,) = world.dead_letters
    assert "no handler" in str(dead_letter.error)


def test_what_is_broken_around_it_only_waits(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world, retries=2)
    world.produce(A, "ant", "axe")
    one.settle()
    world.handle = failing("ant", error=ServiceBroken)
    for _ in range(20):
        one.retry()
    assert (parked(world), world.dead_letters) == (["ant", "axe"], [])


def test_an_attempt_that_the_database_fails_is_not_held_against_the_record(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant")
    one.settle()
    for _ in range(20):
        world.meet(Fault.REFUSE, "transaction.take")
        with pytest.raises(DatabaseUnavailable):
            one.drain()
    world.handle = good
    one.drain()
    assert (world.effects, world.dead_letters) == (["ant"], [])


def test_after_a_resume_the_next_owner_tries_it(world: World) -> None:
    world.handle = failing("ant")
    first = worker(world)
    world.produce(A, "ant", "axe")
    first.settle()
    world.handle = good
    world.assign(A, B, slot=1)
    second = world.worker(slot=1, parked=ROOM).started()
    second.drain()
    assert world.effects == ["ant", "axe"]


def test_what_a_worker_parks_that_stalled_is_found_by_who_owns_its_input(world: World) -> None:
    """It read what is parked before the other one committed."""
    world.handle = failing("ant")
    world.produce(A, "ant")
    first = world.worker(parked=ROOM)
    first.recover()
    for _ in range(2):
        first.run()  # reads, and fails

    def overtaken() -> None:
        world.assign(A, B, slot=1)
        second.recover()
        while not second.run().idle:
            break

    second = world.worker(slot=1, parked=ROOM)
    second.recover()
    world.when("transaction.commit", overtaken)
    first.run()
    assert (parked(world), second.cycle.waiting) == (["ant"], {})
    second.settle()
    world.handle = good
    second.drain()
    assert world.effects == ["ant"]


def test_a_parked_record_is_not_tried_twice_if_the_input_has_moved(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant")
    one.settle()
    world.handle = good
    world.when("transaction.take", world.server.parked.clear)
    progress = one.retry()
    assert (progress.handled, progress.duplicates, world.effects) == (0, 1, [])


# ---- when the input waits instead


def test_without_bounds_the_input_waits(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world, parked=None)
    world.produce(A, "ant", "yak")
    one.settle()
    assert (one.cycle.parked(), parked(world), world.effects) == ({A: 1}, [], [])


def test_before_the_schema_accepts_parked_records_the_input_waits(world: World) -> None:
    """While workers of the version before run, which would handle later records of the key."""
    world.server.parks = False
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, "ant", "yak")
    one.settle()
    assert (one.cycle.parked(), parked(world), world.effects) == ({A: 1}, [], [])


def test_a_version_that_is_not_known_yet_lets_its_input_wait(world: World) -> None:
    """The identity of its event is unknown, and so is everything else of its type."""
    one = worker(world)
    world.produce(A, "future", "yak")
    one.settle()
    assert (one.cycle.parked(), parked(world), world.effects) == ({A: 1}, [], [])


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(2, 10_000, 10, math.inf),
        Bounds(100, 3 * (1 + 3 + 5) - 1, 10, math.inf),
    ],
)
def test_beyond_a_bound_the_input_waits_until_there_is_room(world: World, bounds: Bounds) -> None:
    world.handle = failing("ant")
    one = worker(world, parked=bounds)
    world.produce(A, "ant", "axe", "ape", "yak")
    one.settle()
    assert (parked(world), world.effects) == (["ant", "axe"], [])
    (waits, error) = one.cycle.waits_for(A)
    assert (waits.value, type(error)) == (b"ape", ParkingFull)
    assert one.cycle.parking_filled > 0.6

    world.handle = good
    one.retry()
    one.retry()
    one.retry()
    one.cycle.unpark(A)
    one.drain()
    assert world.effects == ["ant", "axe", "ape", "yak"]


def test_too_many_keys_let_the_input_wait(world: World) -> None:
    world.handle = failing("ant", "yak")
    one = worker(world, parked=Bounds(100, 10_000, 1, math.inf))
    world.produce(A, "ant", "axe", "yak", "cat")
    one.settle()
    assert (parked(world), one.cycle.parked()) == (["ant", "axe"], {A: 1})


def test_an_outage_parks_a_few_keys_and_then_lets_the_input_wait(world: World) -> None:
    """Else it would park everything, and fail a batch for each record."""
    words = [f"{letter}x" for letter in "acegikmoqsuwy"]
    world.handle = failing(*words)
    one = worker(world)
    world.produce(A, *words)
    one.settle()
    assert (len(parked(world)), one.cycle.parked()) == (KEYS_IN_A_ROW, {A: 1})
    one.cycle.unpark(A)
    one.settle()
    assert (len(parked(world)), one.cycle.parked()) == (KEYS_IN_A_ROW + 1, {A: 2})
    world.handle = good
    one.cycle.unpark(A)
    one.drain()
    assert sorted(world.effects) == sorted(words)


def test_bad_keys_among_good_ones_never_let_the_input_wait(world: World) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    bad = [f"{letter}x" for letter in letters if letter not in "cfilorux"]
    world.handle = failing(*bad)
    one = worker(world, parked=Bounds(100, 10_000, 100, math.inf))
    world.produce(A, *(f"{letter}x" for letter in letters))
    one.settle()
    assert (len(parked(world)), one.cycle.parked()) == (len(bad), {})


def test_a_batch_with_one_bad_key_fails_once_and_then_never(world: World) -> None:
    world.handle = failing("ant")
    one = worker(world)
    world.produce(A, *(f"y{n}" for n in range(20)), "ant", *(f"y{n}" for n in range(20, 40)))
    failed = [p for p in one.settle() if p.failed]
    world.produce(A, "axe", "yak")
    assert (len(failed), [p for p in one.settle() if p.failed]) == (1, [])


def test_nothing_is_asked_about_parked_records_while_there_are_none(world: World) -> None:
    one = worker(world)
    world.calls.clear()
    world.produce(A, "apple")
    one.settle()
    assert one.retry().idle
    asked = ("database.waiting", "database.next_parked", "transaction.park", "transaction.take")
    assert [count(world.calls, call) for call in asked] == [0, 0, 0, 0]


# ---- dead letters that hold their key


@pytest.fixture
def holding(world: World) -> World:
    """A world in which a dead letter of `ant` holds its key."""
    world.holds = "ant".__eq__
    world.handle = failing("ant", error=Reject)
    return world


def test_a_dead_letter_holds_its_key_and_the_others_go_on(holding: World) -> None:
    one = worker(holding)
    holding.produce(A, "ape", "ant", "axe", "yak")
    one.settle()
    assert [d.record.value for d in holding.dead_letters] == [b"ant"]
    assert (holding.effects, parked(holding)) == (["ape", "yak"], ["", "axe"])
    assert {source: (w.records, w.keys) for source, w in one.cycle.waiting.items()} == {A: (2, 1)}
    holding.produce(A, "auk")
    holding.produce(B, "ace")
    one.settle()
    one.retry()
    assert (holding.effects, parked(holding)) == (["ape", "yak", "ace"], ["", "axe", "auk"])

    assert holding.server.decide(Session(), b"a", redrive=False)
    one.drain()
    assert holding.effects == ["ape", "yak", "ace", "axe", "auk"]


def test_what_was_chosen_with_a_record_that_becomes_a_dead_letter_waits_behind_it(world: World) -> None:
    world.holds = "ant".__eq__
    world.handle = failing("yak", "ant")
    one = worker(world)
    world.produce(A, "yak", "ant", "axe")
    one.settle()
    world.handle = failing("ant", error=Reject)
    for _ in range(6):
        one.retry()
    assert [d.record.value for d in world.dead_letters] == [b"ant"]
    assert (world.effects, parked(world)) == (["yak"], ["", "axe"])
    assert world.server.decide(Session(), b"a", redrive=True)
    one.drain()
    assert world.effects == ["yak", "ant", "axe"]


@pytest.mark.parametrize("bounds", [None, Bounds(100, 10_000, 1, math.inf)])
def test_its_input_waits_if_there_is_no_room_for_it_and_others_go_on(holding: World, bounds: Bounds | None) -> None:
    one = worker(holding, parked=bounds)
    holding.handle = failing("ant", "yak", error=Reject)
    holding.holds = {"ant", "yak"}.__contains__
    holding.produce(A, "ant", "ape", "yak", "yam")
    holding.produce(B, "ace")
    one.settle()
    (waits, error) = one.cycle.waits_for(A)
    assert (waits.offset, type(error)) == (0 if bounds is None else 2, ParkingFull)
    assert holding.effects == ["ace"]


def test_its_input_waits_while_the_schema_accepts_no_parked_record(holding: World) -> None:
    holding.server.parks = False
    one = worker(holding)
    holding.produce(A, "ape", "ant", "axe")
    one.settle()
    (waits, error) = one.cycle.waits_for(A)
    assert (waits.offset, holding.effects, holding.dead_letters) == (1, ["ape"], [])
    assert "post" in str(error)
