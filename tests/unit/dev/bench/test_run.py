"""When a rate counts as borne."""

import math
from collections import Counter
from typing import Any

import pytest

from dev.bench.run import Run

BEGIN, RATE, SECONDS = 1_000.0, 100, 10


def run(*, seconds: float = 0.2, growth: float = 0.0, **more: Any) -> Run:
    """A run in which the first order takes `seconds`, and each second of the schedule adds `growth`."""
    due = {str(number): BEGIN + number / RATE for number in range(RATE * SECONDS)}
    confirmed = {order: at + seconds + growth * (at - BEGIN) for order, at in due.items()}
    return Run(RATE, BEGIN, SECONDS, due, confirmed, **more)


def test_orders_that_are_confirmed_in_time_are_borne() -> None:
    assert run().borne
    assert run(seconds=1.9).borne


def test_a_slow_tail_is_not_borne() -> None:
    slow = run()
    late = {order: at + 3 for order, at in list(slow.confirmed.items())[200:215]}
    assert not Run(RATE, BEGIN, SECONDS, slow.due, {**slow.confirmed, **late}).borne
    assert Run(RATE, BEGIN, SECONDS, slow.due, {**slow.confirmed, **dict([*late.items()][:5])}).borne


def test_a_backlog_that_grows_is_not_borne_however_short_it_still_is() -> None:
    growing = run(growth=0.1)
    assert growing.percentile(99) < 2
    assert growing.backlog_grows
    assert not growing.borne


@pytest.mark.parametrize(
    "what",
    [{"refused": Counter({503: 1})}, {"unanswered": ("a key",)}, {"unsent": 1}],
    ids=lambda what: next(iter(what)),
)
def test_a_request_that_comes_to_nothing_is_not_borne(what: dict[str, Any]) -> None:
    assert not run(**what).borne


def test_orders_sent_late_are_told_and_measured_by_their_time() -> None:
    assert run(late=3).borne
    assert "3 sent late" in str(run(late=3))


def test_throughput_is_what_was_confirmed_within_the_run() -> None:
    assert run(seconds=0).throughput == RATE
    assert run(seconds=5).throughput == RATE / 2


def test_an_order_that_is_never_confirmed_took_for_ever() -> None:
    done = run()
    lost = Run(RATE, BEGIN, SECONDS, done.due, dict([*done.confirmed.items()][:-20]))
    assert lost.percentile(99) == math.inf
    assert not lost.borne


def test_a_run_without_an_order_shows_nothing() -> None:
    assert not Run(RATE, BEGIN, SECONDS, {}, {}).borne
