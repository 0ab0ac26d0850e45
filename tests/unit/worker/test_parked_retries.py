"""A worker asks for parked records when they are due, and lets no wait for records outlast that."""

import math
from types import SimpleNamespace
from typing import Any

from shared.worker.retries import ASK_SECONDS, ParkedRetries


def cycle(due_seconds: float = math.inf, *, parked: bool = True) -> Any:
    return SimpleNamespace(waiting={"input": 1} if parked else {}, due_seconds=due_seconds)


class Scene:
    """A clock, and the schedule."""

    def __init__(self) -> None:
        self.now = 100.0
        self.retries = ParkedRetries(clock=lambda: self.now)


def test_while_nothing_is_parked_nothing_is_asked_and_no_wait_is_shorter() -> None:
    scene, nothing = Scene(), cycle(parked=False)
    for count in (False, True):
        assert not scene.retries.are_due(nothing, count=count)
    assert scene.retries.at_most(nothing, 1.0) == 1.0


def test_what_was_just_parked_is_asked_for_soon() -> None:
    scene = Scene()
    scene.retries.are_due(cycle(parked=False), count=False)
    assert not scene.retries.are_due(cycle(), count=False)
    assert scene.retries.at_most(cycle(), 1.0) <= ASK_SECONDS
    scene.now += ASK_SECONDS
    assert scene.retries.are_due(cycle(), count=False)


def test_it_asks_when_the_first_is_due_and_whenever_they_are_counted() -> None:
    scene = Scene()
    scene.retries.tried(cycle(30.0), idle=True)
    assert not scene.retries.are_due(cycle(), count=False)
    assert scene.retries.are_due(cycle(), count=True)
    assert (scene.retries.at_most(cycle(), 1.0), scene.retries.at_most(cycle(), 60.0)) == (1.0, 30.0)
    scene.now += 30.0
    assert scene.retries.are_due(cycle(), count=False)


def test_after_an_attempt_it_asks_at_once_for_more() -> None:
    scene = Scene()
    scene.retries.tried(cycle(30.0), idle=False)
    assert scene.retries.are_due(cycle(), count=False)
    assert scene.retries.at_most(cycle(), 1.0) == 0.0
