"""The logic of one cycle: what is handled, what is left out, and in which order things happen.

The worker here drives the production cycle over the simulated servers, so that each of its decisions can be caused and
checked within a millisecond.
"""

from collections.abc import Iterable

import pytest

from shared.errors import (
    DatabaseUnavailable,
    GenerationLost,
    HandlerStuck,
    HandlerTooSlow,
    HandlingFailed,
    KafkaInDoubt,
    KafkaUnavailable,
    ProcessEnded,
    RecoveryNeeded,
    Reject,
    Retry,
    Undecided,
)
from shared.protocol.attempts import ENDS, Attempt
from shared.protocol.intake import UNDECIDED_STRIKES, Intake
from shared.protocol.ports import NOTHING, Polled, Record
from tests.simulation.faults import Fault
from tests.simulation.postgres import Claimed
from tests.unit.protocol.cycle_scene import A, B, World, count


class Unlucky(Exception):
    """A defect of a handler."""


@pytest.fixture
def world() -> World:
    """A world in which one worker gets both inputs and both lanes."""
    world = World()
    world.assign(A, B)
    return world


def failing(*poison: str, error: type[Exception] = Unlucky) -> tuple[list[str], object]:
    """Return a handler that fails on some words, and the list of all words that it was given."""
    asked: list[str] = []

    def handle(word: str) -> Iterable[str]:
        asked.append(word)
        if word in poison:
            raise error(word)
        return (word,)

    return asked, handle


def test_a_batch_is_handled_and_published_in_one_cycle(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple", "ant")
    world.produce(B, "bee")
    progress = worker.run()
    assert (progress.received, progress.handled, progress.published) == (3, 3, 3)
    assert world.effects == ["apple", "ant", "bee"]
    assert world.published == ["apple", "ant", "bee"]
    assert (world.position(A), world.position(B)) == (2, 1)
    assert world.offsets[A].offset == 2


def test_postgres_is_committed_before_anything_is_published(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")
    world.calls.clear()
    worker.run()
    assert world.calls == [
        "kafka.poll",
        "database.begin",
        "transaction.receive",
        "transaction.handle",
        "transaction.set_aside",
        "transaction.write_outbox",
        "transaction.advance",
        "transaction.lock_claims",
        "kafka.confirm",
        "transaction.claim",
        "transaction.commit",
        "kafka.begin",
        "kafka.produce",
        "kafka.send_offsets",
        "kafka.deliver",
        "kafka.commit",
    ]


def test_an_idle_worker_opens_no_transaction(world: World) -> None:
    worker = world.worker().started()
    world.calls.clear()
    assert worker.run().idle
    assert worker.run().idle
    assert world.calls == ["kafka.poll", "database.unpublished"] * 2


def test_after_a_claim_without_room_for_more_nobody_is_asked_whether_there_is_more(world: World) -> None:
    worker = world.worker(rows=2).started()
    for word in ("yak", "yeti", "yew", "yoke", "yurt"):
        world.put(word)
    world.calls.clear()
    assert [worker.run().published for _ in range(3)] == [2, 2, 1]
    assert count(world.calls, "database.unpublished") == 1
    assert worker.run().idle
    assert count(world.calls, "database.unpublished") == 2
    assert world.published == ["yak", "yeti", "yew", "yoke", "yurt"]


def test_what_a_request_left_in_the_outbox_is_published_without_any_input(world: World) -> None:
    worker = world.worker().started()
    world.put("zebra")
    assert worker.run().published == 1
    assert world.published == ["zebra"]


def test_what_was_published_leaves_the_outbox_with_the_next_claim_or_the_next_report(world: World) -> None:
    worker = world.worker().started()
    world.put("yak")
    worker.run()
    world.calls.clear()
    assert worker.run().idle
    assert (count(world.calls, "database.begin"), world.waiting()) == (0, ["yak"])
    world.put("zebra")
    worker.run()
    assert world.waiting() == ["zebra"]
    assert not worker.run(report=True).idle
    assert world.waiting() == []
    world.calls.clear()
    assert worker.run(report=True).idle
    assert count(world.calls, "database.begin") == 0
    assert world.published == ["yak", "zebra"]


def test_a_claim_whose_publishing_could_not_begin_is_published_by_the_next_cycle(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")

    def unavailable() -> None:
        raise KafkaUnavailable

    world.when("kafka.begin", unavailable)
    with pytest.raises(KafkaUnavailable):
        worker.run()
    assert (world.effects, world.published) == (["apple"], [])
    assert worker.run().published == 1
    assert world.published == ["apple"]


def test_records_without_an_effect_need_no_transaction(world: World) -> None:
    """Their offset goes with that of the next effect of their input, or with the next report."""
    worker = world.worker().started()
    world.produce(A, "apple")
    world.produce(B, "bee")
    worker.settle(report=True)
    world.calls.clear()
    world.produce(A, "unconsumed", "unconsumed")
    world.produce(B, "unconsumed")
    progress = worker.run()
    assert (progress.received, progress.skipped, progress.idle) == (3, 3, False)
    assert (count(world.calls, "database.begin"), world.position(A), world.position(B)) == (0, 1, 1)
    world.produce(A, "axe", "unconsumed")
    assert worker.run().skipped == 1
    assert (world.position(A), world.position(B)) == (5, 1)
    worker.run(report=True)
    assert (world.position(B), world.offsets[B].offset) == (2, 2)
    assert worker.run(report=True).idle


def test_records_without_an_effect_are_read_again_after_a_recovery_that_came_before_the_report(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "unconsumed", "unconsumed")
    worker.settle()
    world.fetched = 0
    worker.recover()
    worker.settle()
    assert (world.fetched, world.position(A)) == (2, 2), "noted, since a predecessor may have had them"


def test_what_was_passed_does_not_wait_for_a_record_that_has_to(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple")
    worker.settle(report=True)
    world.produce(A, "unconsumed")
    worker.settle()
    world.produce(A, "ant", "axe")
    worker.settle(report=True)
    assert (world.position(A), world.effects) == (2, ["apple"])


def test_what_cannot_be_read_now_and_was_handled_by_somebody_else_is_dropped(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "future", "ant")
    world.server.positions[A] = 1
    progress = worker.run()
    assert (progress.handled, progress.duplicates, worker.cycle.parked()) == (1, 1, {})


def test_the_next_offset_is_reported_to_kafka_when_nothing_is_published(world: World) -> None:
    world.handle = lambda word: ()
    worker = world.worker().started()
    world.produce(A, "apple")
    worker.run()
    assert A not in world.offsets
    worker.run(report=True)
    assert world.offsets[A].offset == 1
    assert worker.run(report=True).idle


def test_the_end_moves_the_next_offset_over_what_is_no_record(world: World) -> None:
    """Otherwise the lag would never be 0, and retention of the markers would look like a loss of records."""
    worker = world.worker().started()
    world.produce(A, "apple")
    world.mark(A)
    worker.run()
    assert world.position(A) == 1
    worker.run(report=True)
    assert world.position(A) == 2
    assert world.offsets[A].offset == 2


def test_the_end_does_not_move_the_next_offset_over_a_record_that_is_not_handled(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant")
    world.mark(A)
    for _ in range(5):
        worker.run(report=True)
    assert world.position(A) == 1


# ---- what comes twice


def test_an_event_that_comes_again_is_dropped(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")
    worker.run()
    world.produce(A, "apple", "ant")
    progress = worker.run()
    assert (progress.handled, progress.duplicates) == (1, 1)
    assert world.effects == ["apple", "ant"]
    assert world.position(A) == 3


def test_duplicates_in_one_batch_are_handled_once_even_from_two_inputs(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple", "apple")
    world.produce(B, "berry@apple")
    progress = worker.run()
    assert (progress.handled, progress.duplicates) == (1, 2)
    assert world.effects == ["apple"]
    assert (world.position(A), world.position(B)) == (2, 1)


def test_records_that_somebody_else_has_handled_are_dropped(world: World) -> None:
    """A worker that stood still reads the next offset under its row's lock, and finds that it has moved."""
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    world.server.positions[A] = 2
    progress = worker.run()
    assert (progress.handled, progress.duplicates) == (1, 2)
    assert world.effects == ["axe"]
    assert world.position(A) == 3


def test_the_next_offset_never_goes_back(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")
    world.server.positions[A] = 7
    worker.run()
    assert world.position(A) == 7
    assert worker.cycle.seen[A] == 7


def test_the_next_offset_below_what_this_worker_has_seen_is_a_recovery(world: World) -> None:
    """Postgres went back: it is another server, or an older state."""
    world.produce(A, "apple", "ant")
    worker = world.worker().started()
    world.server.positions[A] = 1
    world.produce(A, "axe")
    with pytest.raises(RecoveryNeeded, match="went back below 2"):
        worker.run()
    assert world.effects == ["apple", "ant"]


def test_a_position_that_is_gone_is_a_recovery(world: World) -> None:
    worker = world.worker().started()
    del world.server.positions[A]
    world.produce(A, "apple")
    with pytest.raises(RecoveryNeeded):
        worker.run()


def test_a_claim_of_the_same_number_that_is_another_one_is_a_recovery(world: World) -> None:
    """Postgres went back and on: what this claim names was never published, and must not be deleted."""
    worker = world.worker().started()
    world.put("apple")
    worker.settle()
    assert world.published == ["apple"]
    world.put("axe")
    lane, claim = next((lane, claim) for lane, claim in world.server.claims.items() if claim.position)
    world.server.claims[lane] = Claimed(claim.position, "another claim", tuple(world.server.outbox))
    with pytest.raises(RecoveryNeeded, match="the claim is"):
        worker.run(report=True)
    assert world.server.outbox


# ---- what cannot be handled


def test_retry_parks_its_input_and_no_other_and_keeps_the_order(world: World) -> None:
    asked, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    world.produce(B, "bee", "bug")
    worker.settle()
    assert world.effects == ["apple", "bee", "bug"]
    assert (world.position(A), world.position(B)) == (1, 2)
    assert worker.cycle.parked() == {A: 1}
    world.produce(B, "boa")
    worker.settle()
    assert world.effects == ["apple", "bee", "bug", "boa"]

    assert asked.count("ant") == 1
    worker.cycle.unpark(A)
    worker.settle()
    assert (asked.count("ant"), worker.cycle.parked()) == (2, {A: 2})

    world.handle = lambda word: (word,)
    worker.cycle.unpark(A)
    worker.settle()
    assert world.effects == ["apple", "bee", "bug", "boa", "ant", "axe"]
    assert sorted(world.published) == sorted(world.effects)
    assert worker.cycle.parked() == {}


def test_retries_are_counted_for_each_record(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "ant", "axe")
    worker.settle()
    worker.cycle.unpark(A)
    worker.settle()
    assert worker.cycle.parked() == {A: 2}
    _, world.handle = failing("axe", error=Retry)  # type: ignore[assignment]
    worker.cycle.unpark(A)
    worker.settle()
    assert worker.cycle.parked() == {A: 1}
    assert world.effects == ["ant"]


def test_retry_gives_up_only_if_it_is_told_to(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker(retries=2).started()
    world.produce(A, "ant", "axe")
    for _ in range(3):
        worker.settle()
        worker.cycle.unpark(A)
    worker.settle()
    assert [dead_letter.record.value for dead_letter in world.dead_letters] == [b"ant"]
    assert world.effects == ["axe"]


def test_what_a_predecessor_may_have_had_in_its_hands_is_noted_before_and_nothing_else(world: World) -> None:
    world.produce(A, "apple", "ant")
    worker = world.worker().started()
    assert world.attempts == [[0, 1]]
    world.produce(A, "axe")
    worker.settle()
    assert world.attempts == [[0, 1]]


def test_a_record_at_which_processes_were_killed_is_set_aside_unread(world: World) -> None:
    """Reading it may be what kills."""
    worker = world.worker()
    worker.recover()
    worker.run()
    worker.cycle.suspect(A, Attempt(0, 0, ENDS, ProcessEnded()))
    world.produce(A, "ant", "axe")
    worker.settle()
    (dead_letter,) = world.dead_letters
    assert (dead_letter.record.offset, dead_letter.envelope, type(dead_letter.error)) == (0, None, ProcessEnded)
    assert world.effects == ["axe"]


def test_what_fails_while_others_of_its_type_are_handled_is_the_records(world: World) -> None:
    """For example, a statement is cancelled for its time: of one record, or of all."""
    _, world.handle = failing("ant", error=Undecided)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    for turn in range(UNDECIDED_STRIKES - 1):
        world.produce(B, f"bee@{turn}")
        worker.settle()
        assert (list(worker.cycle.parked()), world.dead_letters) == ([A], [])
        worker.cycle.unpark(A)
    worker.settle()
    assert [dead_letter.record.value for dead_letter in world.dead_letters] == [b"ant"]
    assert (world.position(A), worker.cycle.parked()) == (3, {})


def test_what_fails_while_nothing_else_succeeds_waits(world: World) -> None:
    _, world.handle = failing("ant", "bee", error=Undecided)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "ant", "axe")
    world.produce(B, "bee", "bug")
    for _ in range(5 * UNDECIDED_STRIKES):
        worker.settle()
        assert set(worker.cycle.parked()) == {A, B}
        worker.cycle.unpark(A)
        worker.cycle.unpark(B)
    world.handle = lambda word: (word,)
    worker.settle()
    assert world.effects == ["ant", "axe", "bee", "bug"]
    assert world.dead_letters == []


def too_slow(*words: str, records: int) -> object:
    """Return a handler that is too slow for some words, and for more than `records` in one batch."""
    done: list[str] = []

    def handle(word: str) -> Iterable[str]:
        done.append(word)
        if word in words or len(done) > records:
            done.clear()
            raise HandlerTooSlow(word)
        return (word,)

    return handle


def test_a_batch_that_is_too_slow_is_made_smaller_and_loses_nothing(world: World) -> None:
    worker = world.worker().started()
    sizes: list[int] = []
    began: list[str] = []

    def handle(word: str) -> Iterable[str]:
        if len(began) >= 10:
            began.clear()
            raise HandlerTooSlow
        began.append(word)
        return (word,)

    world.handle = handle
    world.produce(A, *[f"a{n}" for n in range(100)])
    failed = 0
    for _ in range(100):
        began.clear()
        progress = worker.run()
        sizes.append(progress.handled)
        failed += progress.failed is not None
    assert world.effects == [f"a{n}" for n in range(100)]
    assert world.dead_letters == []
    assert 3 * failed < sum(size > 0 for size in sizes), "what was too much is not forgotten with the next batch"


def test_a_record_that_is_too_slow_alone_is_set_aside(world: World) -> None:
    world.handle = too_slow("ant", records=100)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    worker.settle()
    assert world.effects == ["apple", "axe"]
    assert [type(dead_letter.error) for dead_letter in world.dead_letters] == [HandlerTooSlow]


def test_a_record_at_which_a_process_ended_is_tried_alone(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe", "arm")
    worker.cycle.beware(A, 1, 1, HandlerStuck())
    assert [progress.handled for progress in worker.settle()[:3]] == [1, 1, 2]
    assert world.dead_letters == []


def test_a_record_at_which_two_processes_ended_is_set_aside(world: World) -> None:
    asked, world.handle = failing("ant")  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    worker.cycle.beware(A, 1, 2, HandlerStuck())
    worker.settle()
    assert world.effects == ["apple", "axe"]
    assert [type(dead_letter.error) for dead_letter in world.dead_letters] == [HandlerStuck]
    assert "ant" not in asked


def test_an_unknown_version_is_kept_until_somebody_knows_it(world: World) -> None:
    """In a rolling upgrade the producer may be newer; that must not lose a good record."""
    worker = world.worker().started()
    world.produce(A, "apple", "future", "axe")
    worker.settle()
    assert world.effects == ["apple"]
    assert (world.position(A), worker.cycle.parked()) == (1, {A: 1})


def test_an_unknown_type_is_skipped_and_counted(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple", "unconsumed", "axe")
    progress = worker.run()
    assert (progress.handled, progress.skipped, progress.duplicates) == (2, 1, 0)
    assert world.position(A) == 3


def test_what_is_no_event_is_set_aside_with_the_rest_of_its_batch(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple", "malformed", "axe")
    progress = worker.run()
    assert [dead_letter.record.offset for dead_letter in progress.set_aside] == [1]
    assert (progress.handled, progress.duplicates) == (2, 0)
    assert [dead_letter.record.value for dead_letter in world.dead_letters] == [b"malformed"]
    assert world.position(A) == 3


def test_a_rejected_record_is_set_aside_in_the_transaction_that_moves_the_next_offset_past_it(world: World) -> None:
    asked, world.handle = failing("ant", error=Reject)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    assert isinstance(worker.run().failed, Reject)
    assert (world.effects, world.dead_letters, world.position(A)) == ([], [], 0)
    progress = worker.run()
    assert world.effects == ["apple", "axe"]
    assert [(dead_letter.record.value, type(dead_letter.error)) for dead_letter in world.dead_letters] == [
        (b"ant", Reject)
    ]
    assert progress.set_aside == world.dead_letters
    assert world.position(A) == 3
    assert asked == ["apple", "ant", "apple", "axe"]


def test_a_defect_is_searched_until_it_has_failed_alone_twice(world: World) -> None:
    asked, world.handle = failing("axe")  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, *(f"a{n}" for n in range(10)), "axe", *(f"a{n}" for n in range(10, 20)))
    done = worker.settle()
    assert world.effects == [f"a{n}" for n in range(20)]
    assert world.published == world.effects
    assert [(dead_letter.record.value, type(dead_letter.error)) for dead_letter in world.dead_letters] == [
        (b"axe", Unlucky)
    ]
    assert asked.count("axe") == 4, "with others, first of a batch, and alone twice"
    assert sum(progress.failed is not None for progress in done) == 4


def test_a_defect_that_nobody_can_place_is_searched_by_halves(world: World) -> None:
    """The error comes when the batch is flushed, and does not show which record caused it."""
    world.refuse = lambda word: word == "axe"
    worker = world.worker().started()
    world.produce(A, *(f"a{n}" for n in range(30)), "axe", "ant")
    worker.settle()
    assert world.effects == [*(f"a{n}" for n in range(30)), "ant"]
    assert [(dead_letter.record.value, type(dead_letter.error)) for dead_letter in world.dead_letters] == [
        (b"axe", Reject)
    ]


def test_a_defect_that_passes_is_nobodys_end(world: World) -> None:
    asked: list[str] = []

    def unlucky_once(word: str) -> Iterable[str]:
        asked.append(word)
        if asked.count("ant") == 1:
            raise Unlucky
        return (word,)

    world.handle = unlucky_once
    worker = world.worker().started()
    world.produce(A, "ant")
    worker.settle()
    assert (world.effects, world.dead_letters) == (["ant"], [])


def test_poison_in_a_row_is_set_aside_one_by_one(world: World) -> None:
    _, world.handle = failing("axe", "ant", "arc")  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "axe", "ant", "arc", "ape")
    worker.settle()
    assert world.effects == ["apple", "ape"]
    assert [dead_letter.record.value for dead_letter in world.dead_letters] == [b"axe", b"ant", b"arc"]
    assert world.position(A) == 5


def test_a_server_that_is_away_rejects_no_record(world: World) -> None:
    world.meet(Fault.REFUSE, "transaction.handle", times=5)
    worker = world.worker().started()
    world.produce(A, "apple", "ant")
    for _ in range(5):
        with pytest.raises(DatabaseUnavailable):
            worker.run()
    worker.settle()
    assert (world.effects, world.dead_letters) == (["apple", "ant"], [])


def test_no_more_is_fetched_than_a_batch_while_nothing_can_be_handled(world: World) -> None:
    world.meet(Fault.REFUSE, "transaction.handle", times=50)
    worker = world.worker(records=5).started()
    world.produce(A, *(f"a{n}" for n in range(200)))
    for _ in range(50):
        with pytest.raises(DatabaseUnavailable):
            worker.run()
    assert world.fetched <= 5
    worker.settle()
    assert world.effects == [f"a{n}" for n in range(200)]


def test_a_parked_input_fetches_no_more(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker(records=5).started()
    world.produce(A, "ant")
    worker.settle()
    world.produce(A, *(f"a{n}" for n in range(100)))
    world.produce(B, *(f"b{n}" for n in range(100)))
    worker.settle()
    assert world.effects == [f"b{n}" for n in range(100)]
    assert world.fetched - len(world.effects) <= 6, "the rest of a batch, and one batch more"


# ---- the group


def test_no_record_of_a_revoked_input_is_handled(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")
    world.produce(B, "bee")
    world.assign(B)
    worker.settle()
    assert world.effects == ["bee"]


def test_a_worker_without_lanes_claims_nothing(world: World) -> None:
    worker = world.worker().started()
    world.assign(A, lanes=())
    world.put("zebra")
    world.produce(A, "apple")
    worker.settle()
    assert world.effects == ["apple"]
    assert world.published == []
    assert world.waiting() == ["zebra", "apple"]


def test_the_published_position_is_forgotten_with_the_lane_and_read_again_with_it(world: World) -> None:
    """Another worker may have published more while it owned the lane."""
    worker = world.worker().started()
    world.put("zebra")
    worker.settle()
    world.assign(lanes=())
    worker.settle()
    other = world.worker(slot=1)
    world.assign(A, B, slot=1)
    other.started()
    world.put("zoo")
    other.settle()
    world.assign(A, B)
    worker.run()
    world.put("zone")
    worker.settle()
    assert world.published == ["zebra", "zoo", "zone"]


def test_who_is_no_member_any_more_publishes_nothing(world: World) -> None:
    worker = world.worker().started()
    world.put("zebra")
    world.member = False
    assert worker.run().published == 0
    assert worker.cycle.owned == NOTHING
    assert worker.run().idle
    assert world.published == []

    world.member = True
    world.assign(A, B)
    worker.settle()
    assert world.published == ["zebra"]


def test_what_an_outdated_generation_publishes_is_refused_and_published_later(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")
    world.meet(Fault.EXPEL, "kafka.send_offsets")
    with pytest.raises(GenerationLost):
        worker.run()
    assert world.published == []
    worker.recover()
    worker.settle()
    assert world.published == ["apple"]
    assert world.effects == ["apple"]


def test_resuming_begins_anew_when_the_group_changes_under_it() -> None:
    """If, say, the published position is missing, the group is asked once more; the second answer counts."""
    world = World()
    world.server.claims[0] = Claimed(3, "claim", ())
    world.assign(A, lanes=(0,))
    worker = world.worker(eager=False)
    worker.recover()
    world.when("kafka.committed", lambda: world.assign(B, lanes=(1,)))
    worker.settle()
    assert worker.cycle.owned.lanes == {1}
    assert worker.cycle.owned.inputs == {B}


def test_a_group_that_never_comes_to_rest_is_a_recovery() -> None:
    world = World()
    world.server.claims[0] = Claimed(3, "claim", ())
    world.assign(A)
    worker = world.worker(eager=False)
    worker.recover()
    world.when("kafka.committed", lambda: world.assign(A), times=30)
    with pytest.raises(GenerationLost, match="come to rest"):
        worker.run()


def test_recovery_asks_for_its_slot_first_and_kafka_before_postgres(world: World) -> None:
    worker = world.worker().started()
    world.calls.clear()
    worker.recover()
    assert world.calls == [
        "database.hold_slot",
        "kafka.renew",
        "kafka.committed",
        "database.positions",
        "database.claims",
        "database.waiting",
        "kafka.read_from",
    ]


def test_nothing_is_remembered_over_a_doubt(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker().started()
    world.produce(A, "apple", "ant", "axe")
    worker.settle()
    assert worker.cycle.parked()
    world.put("zebra")
    world.meet(Fault.REFUSE, "kafka.commit")
    with pytest.raises(KafkaInDoubt):
        worker.run()
    worker.recover()
    assert worker.cycle.parked() == {}
    world.handle = lambda word: (word,)
    worker.settle()
    assert world.effects == ["apple", "ant", "axe"]
    assert world.published == ["apple", "ant", "axe", "zebra"]
    assert count(world.calls, "kafka.renew") == 2


def test_a_parked_input_holds_up_no_other_even_if_its_records_fill_a_batch(world: World) -> None:
    _, world.handle = failing("ant", error=Retry)  # type: ignore[assignment]
    worker = world.worker(records=3).started()
    world.produce(A, "ant", "axe", "ape")
    worker.settle()
    world.produce(B, "bee", "bug")
    worker.settle()
    assert world.effects == ["bee", "bug"]


def test_records_of_an_input_that_is_not_owned_are_dropped(world: World) -> None:
    intake = Intake([A], records_max=10, retries_max=0)
    intake.add(Polled([Record(B, 0, b"b", b"bee", [])], {B: 1}, None, 1))
    assert intake.batch() == []
    assert intake.ended({A: 0}) == {}


def test_batches_are_halved_while_nobody_knows_the_culprit_and_grow_again() -> None:
    intake = Intake([A], records_max=16, retries_max=0)
    intake.add(Polled([Record(A, offset, b"a", b"ant", []) for offset in range(100)], {}, None, 1))
    sizes = []
    for _ in range(3):
        sizes.append(len(intake.batch()))
        failure = HandlingFailed(None)
        failure.__cause__ = Unlucky()
        intake.failed(failure, intake.batch())
    for _ in range(4):
        sizes.append(len(intake.batch()))
        intake.handled(intake.batch())
    assert sizes == [16, 8, 4, 2, 4, 8, 16]


def test_a_failure_without_a_record_in_an_empty_batch_is_raised() -> None:
    """It came from the outbox or the commit, and no other batch would fare better."""
    intake = Intake([A], records_max=16, retries_max=0)
    failure = HandlingFailed(None)
    failure.__cause__ = Unlucky()
    with pytest.raises(Unlucky):
        intake.failed(failure, [])
