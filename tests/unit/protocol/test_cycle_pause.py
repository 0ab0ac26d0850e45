"""An operator pauses a topic: its inputs stay owned, and nothing of them is handled until it is resumed."""

import pytest

from shared.errors import Retry
from shared.protocol.parking import Bounds
from shared.protocol.ports import Input
from tests.simulation.broker import TOPIC, Log
from tests.unit.protocol.cycle_scene import A, World, count

OTHER = Input("other", 0)
PAUSED = frozenset({TOPIC})
NONE: frozenset[str] = frozenset()


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.inputs[OTHER] = Log()
    world.assign(A, OTHER)
    return world


def test_the_other_input_and_the_outbox_go_on_and_it_goes_on_where_it_was(world: World) -> None:
    worker = world.worker().started()
    world.produce(A, "a1")
    worker.settle()
    worker.cycle.pause(PAUSED)
    world.produce(A, "a2", "a3")
    world.produce(OTHER, "b1")
    world.put("z1")
    worker.settle(report=True)

    assert world.effects == ["a1", "b1"]
    assert sorted(world.published) == ["a1", "b1", "z1"]
    assert worker.cycle.paused == PAUSED
    assert worker.cycle.owned.inputs == {A, OTHER}
    assert world.offsets[A].offset == world.position(A) == 1, "its next offset is reported"

    worker.cycle.pause(NONE)
    worker.settle()
    assert world.effects == ["a1", "b1", "a2", "a3"]
    assert worker.cycle.paused == NONE


def test_a_worker_that_takes_over_fetches_nothing_of_it(world: World) -> None:
    world.produce(A, "a1")
    world.produce(OTHER, "b1")
    worker = world.worker()
    worker.cycle.pause(PAUSED)
    worker.started()
    assert (world.effects, world.fetched) == (["b1"], 1)

    world.assign(A, OTHER)  # a rebalance
    worker.settle()
    worker.recover()  # a doubt
    worker.settle()
    assert (world.effects, world.fetched) == (["b1"], 1)


def test_what_was_fetched_and_not_handled_is_handled_after_the_pause(world: World) -> None:
    def fails(word: str) -> tuple[str, ...]:
        raise Retry(word)

    worker = world.worker().started()
    works, world.handle = world.handle, fails
    world.produce(A, "a1", "a2")
    worker.run()
    assert worker.cycle.parked() == {A: 1}, "it waits at a1"
    worker.cycle.pause(PAUSED)
    worker.settle()
    assert worker.cycle.parked() == {}, "it waits for the operator, and for nothing else"

    world.handle = works
    worker.settle()
    assert world.effects == []
    worker.cycle.pause(NONE)
    worker.settle()
    assert world.effects == ["a1", "a2"]


def test_what_is_parked_is_not_tried_and_does_not_count(world: World) -> None:
    def fails(word: str) -> tuple[str, ...]:
        raise Retry(word)

    worker = world.worker(parked=Bounds(10, 10_000, 10, 3_600)).started()
    works, world.handle = world.handle, fails
    world.produce(A, "a1")
    worker.settle()
    assert set(worker.cycle.waiting) == {A}
    world.handle = works
    worker.cycle.pause(PAUSED)
    worker.settle()

    assert (worker.cycle.waiting, worker.cycle.parking_filled) == ({}, 0.0)
    assert worker.retry().idle
    assert world.effects == []
    worker.cycle.pause(NONE)
    worker.drain()
    assert world.effects == ["a1"]


def test_a_pause_of_what_it_does_not_own_costs_nothing(world: World) -> None:
    worker = world.worker().started()
    before = count(world.calls, "kafka.committed")
    for topics in (frozenset({"elsewhere"}), frozenset({"elsewhere"}), NONE):
        worker.cycle.pause(topics)
        worker.settle()
    assert count(world.calls, "kafka.committed") == before
