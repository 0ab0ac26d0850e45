"""Lanes and claims: what is published, when it is forgotten, and what a worker concludes from it."""

import pytest

from shared.errors import (
    ContentRefused,
    DatabaseInDoubt,
    DatabaseWentBack,
    KafkaInDoubt,
    KafkaWentBack,
    PositionMissing,
    RecoveryNeeded,
)
from shared.protocol.ports import Committed
from tests.simulation.faults import Fault
from tests.simulation.postgres import Claimed
from tests.unit.protocol.cycle_scene import A, World, count


@pytest.fixture
def world() -> World:
    """A world in which one worker gets one input and both lanes."""
    world = World()
    world.assign(A)
    return world


def test_the_first_start_commits_the_published_position_before_the_first_claim(world: World) -> None:
    """From then on a missing published position means that it was lost."""
    world.put("yak")
    world.worker().started()
    assert world.calls.index("kafka.commit") < world.calls.index("transaction.claim")
    assert world.published == ["yak"]
    assert world.offsets[0].offset == 1


def test_the_first_start_commits_the_published_position_even_if_there_is_nothing_to_publish(world: World) -> None:
    world.worker().started()
    assert world.offsets[0] == Committed(0, "")


def test_an_input_consumed_for_the_first_time_is_read_from_its_beginning(world: World) -> None:
    world.trim(A, 40)
    world.produce(A, "apple")
    world.worker().started()
    assert (world.effects, world.position(A)) == (["apple"], 41)


def test_the_claim_id_goes_with_the_published_position(world: World) -> None:
    world.put("yak")
    world.worker().started()
    assert world.offsets[0] == Committed(1, world.server.claims[0][1])


def test_a_claim_that_was_not_published_is_published_by_whoever_comes_next(world: World) -> None:
    worker = world.worker().started()
    world.put("yak")
    world.meet(Fault.REFUSE, "kafka.commit")
    with pytest.raises(KafkaInDoubt):
        worker.run()
    world.put("yew")
    world.assign(A)
    world.worker().started()
    assert world.published == ["yak", "yew"]


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE], ids=["not committed", "committed"])
def test_a_first_published_position_whose_commit_is_in_doubt_is_committed_again_or_found(
    world: World, fault: Fault
) -> None:
    world.put("yak")
    world.meet(fault, "kafka.commit")
    worker = world.worker()
    worker.recover()
    with pytest.raises(KafkaInDoubt):
        worker.run()
    worker.started()
    assert world.published == ["yak"]
    assert world.offsets[0].offset == 1


def test_no_row_is_deleted_while_the_commit_that_published_it_is_doubted(world: World) -> None:
    """A broker that dies right after its answer may forget what it has answered."""
    worker = world.worker().started()
    world.put("yak")
    worker.run()
    worker.client.lose_connection()
    with pytest.raises(KafkaInDoubt):
        worker.run(report=True)
    assert world.waiting() == ["yak"]
    worker.recover()
    worker.settle(report=True)
    assert (world.published, world.waiting()) == (["yak"], [])


def test_a_commit_whose_answer_was_lost_is_not_published_again(world: World) -> None:
    worker = world.worker().started()
    world.put("yak")
    world.meet(Fault.LOSE, "kafka.commit")
    with pytest.raises(KafkaInDoubt):
        worker.run()
    assert world.published == ["yak"]
    worker.recover()
    worker.settle(report=True)
    assert world.published == ["yak"]
    assert world.waiting() == []


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOSE], ids=["not committed", "committed"])
def test_a_commit_of_postgres_whose_answer_was_lost_is_handled_once(world: World, fault: Fault) -> None:
    worker = world.worker().started()
    world.produce(A, "apple")
    world.meet(fault, "transaction.commit")
    with pytest.raises(DatabaseInDoubt):
        worker.run()
    worker.recover()
    worker.settle()
    assert (world.effects, world.published) == (["apple"], ["apple"])


def test_a_claim_is_bounded_and_the_next_one_goes_on(world: World) -> None:
    worker = world.worker(rows=2).started()
    for word in ("y1", "y2", "y3", "y4", "y5"):
        world.put(word)
    assert [progress.published for progress in worker.settle()] == [2, 2, 1, 0]
    assert world.published == ["y1", "y2", "y3", "y4", "y5"]


@pytest.mark.parametrize(
    "claim",
    [Claimed(3, "mine", ()), Claimed(4, "mine", ()), Claimed(0, "", ()), Claimed(1, "somebody else's", ())],
    ids=[
        "The published position + 2",
        "The published position + 3",
        "The published position - 1",
        "The published position under another claim id",
    ],
)
def test_a_claim_that_fits_no_published_position_is_a_recovery(world: World, claim: Claimed) -> None:
    """It may be the view of a worker that does not yet know it lost the lane; the next view counts."""
    worker = world.worker().started()
    world.put("yak")
    worker.settle()
    assert world.offsets[0].offset == 1
    world.server.claims[0] = claim
    world.put("yew")
    with pytest.raises(RecoveryNeeded, match="lane 0"):
        worker.run()
    assert world.published == ["yak"]


def test_the_published_position_under_another_claim_id_stops_the_worker(world: World) -> None:
    """Postgres lost a claim, and another was made under the same number."""
    world.put("yak")
    world.worker().started()
    world.server.claims[0] = Claimed(1, "made again", ())
    world.assign(A)
    worker = world.worker()
    worker.recover()
    with pytest.raises(
        DatabaseWentBack, match=r"lane 0: Kafka has the published position 1 of claim claim .*made again"
    ):
        worker.run()


def test_a_low_published_position_is_believed_only_after_it_was_read_again(world: World) -> None:
    """The row was read after the published position; another worker may have published more since."""
    world.put("yak")
    world.worker().started()
    world.server.claims[0] = Claimed(5, "a later claim", ())
    world.assign(A)
    worker = world.worker()
    worker.recover()
    world.calls.clear()
    with pytest.raises(KafkaWentBack):
        worker.run()
    assert world.calls == [
        "kafka.poll",
        "kafka.committed",
        "database.positions",
        "database.claims",
        "kafka.poll",
        "kafka.committed",
    ]


def test_a_missing_published_position_is_first_read_again_and_then_stops_the_worker(world: World) -> None:
    world.put("yak")
    world.worker().started()
    del world.offsets[0]
    world.assign(A)
    worker = world.worker()
    worker.recover()
    world.calls.clear()
    with pytest.raises(PositionMissing):
        worker.run()
    assert count(world.calls, "kafka.committed") == 2


def test_nothing_is_compared_without_membership(world: World) -> None:
    """A worker expelled from the group sees an old published position, and must not stop for it."""
    world.put("yak")
    world.worker().started()
    world.server.claims[0] = Claimed(5, "a later claim", ())
    world.assign(A)
    world.member = False
    worker = world.worker()
    worker.recover()
    with pytest.raises(RecoveryNeeded):
        worker.run()


# ---- content that Kafka refuses


def test_a_row_that_kafka_refuses_is_narrowed_down_and_named(world: World) -> None:
    worker = world.worker().started()
    world.content = lambda word: word == "yttrium"
    for word in ("y1", "y2", "y3", "yttrium", "y5"):
        world.put(word)
    assert "outbox show yttrium" in str(worker.stuck())
    assert world.published == ["y1", "y2", "y3"]


def test_claims_grow_again_when_the_row_is_mended(world: World) -> None:
    worker = world.worker().started()
    world.content = lambda word: word == "yttrium"
    for n in range(8):
        world.put(f"y{n}")
    world.put("yttrium")
    with pytest.raises(ContentRefused):
        worker.run()
    world.content = lambda word: False
    worker.recover()
    worker.settle()
    for n in range(8, 16):
        world.put(f"y{n}")
    assert next(progress.published for progress in worker.settle()) == 8
    assert world.published == [*(f"y{n}" for n in range(8)), "yttrium", *(f"y{n}" for n in range(8, 16))]


def test_a_refused_row_of_one_lane_does_not_stop_the_search_by_another() -> None:
    world = World()
    world.assign(A)
    worker = world.worker().started()
    world.content = lambda word: word == "zinc"
    for n in range(4):
        world.put(f"y{n}")
        world.put(f"z{n}")
    world.put("zinc")
    assert "lane 1" in str(worker.stuck())
    assert [word for word in world.published if word[0] == "y"] == ["y0", "y1", "y2", "y3"]
    assert [word for word in world.published if word[0] == "z"] == ["z0", "z1", "z2", "z3"]
