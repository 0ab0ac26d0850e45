"""A handler is interrupted when its budget is spent; the library below it never is."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from shared.errors import HandlerTooSlow, HandlingFailed
from shared.postgres.deadline import Deadline
from shared.telemetry import failures

LONG_SECONDS = 30.0

naps: list[int] = []
"""The interrupts that a handler has caught."""


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def armed(cancel: Callable[[], bool] = lambda: False) -> Deadline:
    made = Deadline(0.05, cancel)
    made.install()
    made.renew()
    return made


def refusal(budget: Deadline, handler: Callable[[], None] | None) -> BaseException:
    """Return why a batch is rolled back that calls `handler`, or in which the library is slow."""
    try:
        with budget:
            if handler is not None:
                budget.call(handler)
            while not budget.passed:
                nap(0.01)
    except HandlingFailed as failure:
        return failure.__cause__ or failure
    raise AssertionError


def nap(seconds: float = LONG_SECONDS) -> None:
    time.sleep(seconds)


def swallowing() -> None:
    try:
        nap()
    except BaseException:  # noqa: BLE001 - as bad as it gets
        return


def careless() -> None:
    """A handler that catches what it does not know, and tries again."""
    for _ in range(20):
        try:
            nap()
        except Exception:  # noqa: BLE001 - as people do
            naps.append(1)


@pytest.mark.parametrize("handler", [nap, swallowing, careless])
def test_a_handler_that_is_too_slow_is_interrupted_whatever_it_catches(handler: Callable[[], None]) -> None:
    began = time.monotonic()
    budget = armed()
    reason = refusal(budget, handler)
    assert str(reason) == "not done within HANDLER_SECONDS_MAX = 0.05"
    assert time.monotonic() - began < LONG_SECONDS
    assert not naps, "no handler takes it for an error of its own"
    if handler is nap:
        assert "in nap: time.sleep(seconds)" in failures.frames(reason)


def test_the_record_of_a_handler_that_swallows_everything_is_known_nevertheless() -> None:
    budget = armed()
    with suppress(HandlingFailed), budget, pytest.raises(HandlerTooSlow):
        budget.call(swallowing)


def test_what_is_quick_enough_is_left_alone() -> None:
    budget = armed()
    with budget:
        assert budget.call(lambda: 7) == 7
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not budget.passed


def test_inside_the_database_the_statement_is_cancelled_and_the_handler_interrupted_later() -> None:
    asked: list[int] = []

    def cancel() -> bool:
        asked.append(1)
        return False

    inside: dict[str, Any] = {"__name__": "psycopg.connection", "asked": asked, "time": time}
    exec(
        "def wait():\n    for _ in range(500):\n        time.sleep(0.01 * (len(asked) < 2))\n    done.append(1)\n",
        inside,
    )
    done = inside["done"] = []

    def handler() -> None:
        inside["wait"]()
        nap()

    budget = armed(cancel)
    refusal(budget, handler)
    assert len(asked) >= 2
    assert done == [1]


def test_a_cancel_that_takes_longer_than_a_tick_is_not_asked_for_again_within_itself() -> None:
    """It waited for the session that it held."""
    inside: dict[str, Any] = {"__name__": "psycopg.connection", "signal": signal, "time": time}
    exec(
        "def cancel():\n"
        "    at_it.append(1)\n"
        "    signal.raise_signal(signal.SIGALRM)\n"
        "    most.append(len(at_it))\n"
        "    at_it.pop()\n"
        "    return False\n"
        "def wait():\n"
        "    for _ in range(500):\n"
        "        time.sleep(0.01 * (len(most) < 2))\n",
        inside,
    )
    most = inside["most"] = []
    inside["at_it"] = []

    refusal(armed(inside["cancel"]), inside["wait"])

    assert set(most) == {1}


def test_what_is_not_a_handler_is_never_interrupted_and_yet_rolled_back() -> None:
    budget = armed()
    reason = refusal(budget, None)
    assert isinstance(reason, HandlerTooSlow)


def test_a_pause_of_the_whole_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget = Deadline(1.0)
    budget.install()
    budget.renew()
    with budget:
        now[0] += 1_000
        signal.raise_signal(signal.SIGALRM)
        assert not budget.passed
        for _ in range(5):
            now[0] += 1_000
            signal.raise_signal(signal.SIGALRM)
        assert budget.passed
        budget.passed = False


def test_without_a_timer_nothing_happens() -> None:
    budget = Deadline(0.01)
    with budget:
        budget.call(nap, 0.05)
