"""A parked input is tried again after a pause that doubles with each attempt, up to the setting."""

from types import SimpleNamespace
from typing import Any

import pytest

from shared.errors import Retry
from shared.protocol.ports import Input
from shared.worker import retries

SOURCE, OTHER = Input("a", 0), Input("b", 1)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that the log reports."""
    told: list[float] = []
    monkeypatch.setattr(retries, "log_retry", lambda _error, _record, _attempts, seconds: told.append(seconds))
    return told


def cycle(parked: dict[Input, int]) -> Any:
    """Return a cycle with parked inputs."""
    return SimpleNamespace(parked=lambda: dict(parked), waits_for=lambda _: (None, Retry("later")), unpark=parked.pop)


def test_each_pause_is_longer_up_to_the_setting(pauses: list[float]) -> None:
    clock = Clock()
    made = retries.Retries(3.0, clock=clock)
    for attempts in range(1, 40):
        parked = {SOURCE: attempts}
        made.release(cycle(parked))
        longest = min(0.1 * 2**attempts, 3.0)
        assert longest / 2 <= pauses[-1] <= longest
        clock.now += pauses[-1] - 0.001
        made.release(cycle(parked))
        assert parked, "not yet"
        clock.now += 0.002
        made.release(cycle(parked))
        assert not parked
    assert len(pauses) == 39, "each is told once"


def test_an_input_that_was_given_away_meanwhile_starts_anew(pauses: list[float]) -> None:
    clock = Clock()
    made = retries.Retries(60.0, clock=clock)
    made.release(cycle({SOURCE: 9, OTHER: 1}))
    made.release(cycle({OTHER: 1}))
    clock.now += 100
    parked = {SOURCE: 1}
    made.release(cycle(parked))
    assert parked == {SOURCE: 1}
    assert len(pauses) == 3
