"""A wait for records ends when the caller says so, and with whatever the topics or the group bring."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shared.kafka import consumer
from shared.kafka.consumer import SLICE_MAX, SLICE_MIN, GroupMember


class Scene:
    """A client that brings nothing until a turn that a test names; its clock goes on only while it polls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.polls: list[float] = []
        self.turns: dict[int, Callable[[], Any]] = {}
        self.over = False
        self.member = GroupMember.__new__(GroupMember)
        made: Any = self.member
        made._consumer, made._changed = SimpleNamespace(poll=self._poll), False
        self.member.end_waits_if(lambda: self.over)
        monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: sum(self.polls)))

    def _poll(self, seconds: float) -> Any:
        self.polls.append(seconds)
        return self.turns.get(len(self.polls), lambda: None)()

    def end(self) -> None:
        """Let the wait end."""
        self.over = True

    def change(self) -> None:
        """Give the member another share."""
        self.member._changed = True


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "longest"),
    [(0.002, 0.002), (0.1, SLICE_MIN), (1.0, SLICE_MAX), (100.0, SLICE_MAX)],
    ids=["at once", "short", "long", "very long"],
)
def test_a_wait_is_made_of_short_polls_and_takes_no_longer(scene: Scene, seconds: float, longest: float) -> None:
    assert scene.member._first(seconds) is None
    assert sum(scene.polls) == pytest.approx(seconds)
    assert max(scene.polls) == pytest.approx(longest)


def test_a_poll_that_is_not_to_wait_asks_once(scene: Scene) -> None:
    scene.member._first(0)
    assert scene.polls == [0]


def test_the_caller_ends_it(scene: Scene) -> None:
    scene.turns[3] = scene.end
    assert scene.member._first(1.0) is None
    assert len(scene.polls) == 3


def test_a_message_ends_it(scene: Scene) -> None:
    message: Any = object()
    scene.turns[3] = lambda: message
    assert scene.member._first(1.0) is message
    assert len(scene.polls) == 3


def test_another_share_ends_it(scene: Scene) -> None:
    scene.turns[3] = scene.change
    assert scene.member._first(1.0) is None
    assert len(scene.polls) == 3
