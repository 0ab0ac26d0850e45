"""One caller cannot take the others' share."""

import pytest

from shared.http import rate
from shared.http.problems import Problem
from shared.http.rate import Rate


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(limit: Rate, caller: str, times: int) -> int:
    """Return how many of `times` requests are allowed."""
    allowed = 0
    for _ in range(times):
        try:
            limit.take(caller)
        except Problem:
            continue
        allowed += 1
    return allowed


def test_a_caller_may_save_up_and_then_has_its_rate() -> None:
    clock = Clock()
    limit = Rate(10, clock)
    assert taken(limit, "ada", 100) == 10 * rate.BURST_SECONDS
    clock.now += 0.5
    assert taken(limit, "ada", 100) == 5
    clock.now += 3600
    assert taken(limit, "ada", 100) == 10 * rate.BURST_SECONDS


def test_callers_do_not_meet() -> None:
    limit = Rate(1, Clock())
    assert taken(limit, "ada", 100) == 2
    assert taken(limit, "bob", 1) == 1


def test_who_is_refused_is_told_when_to_come_again() -> None:
    clock = Clock()
    limit = Rate(0.1, clock)
    limit.take("ada")
    with pytest.raises(Problem) as refusal:
        limit.take("ada")
    assert refusal.value.answer.status == 429
    seconds = int(refusal.value.headers["Retry-After"])
    clock.now += seconds
    assert (seconds, taken(limit, "ada", 5)) == (10, 1)


def test_zero_limits_nobody() -> None:
    assert taken(Rate(0), "ada", 1_000) == 1_000


def test_it_remembers_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "CALLERS_MAX", 3)
    limit = Rate(1, Clock())
    for name in ("ada", "bob", "cid", "ada", "dan"):
        limit.take(name)
    assert list(limit._buckets) == ["cid", "ada", "dan"]
