"""A run that must end in time leaves out what would begin too late, and says so."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests import until

ROOT = Path(__file__).parents[3]
ONE = "tests/unit/repository/test_spread.py::test_large_tests_run_two_at_a_time"


@pytest.mark.parametrize(("seconds", "told"), [(-1, "1 skipped"), (3600, "1 passed")])
def test_what_would_begin_too_late_is_left_out_and_told(seconds: float, told: str) -> None:
    words = [sys.executable, "-m", "pytest", "-q", ONE, f"--until={time.time() + seconds}"]
    out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told in out
    assert ("the time is up (--until)" in out) == (seconds < 0)


def options(**given: object) -> pytest.Config:
    class Config:
        getoption: Callable[[str], object] = staticmethod(given.get)

    return Config()  # type: ignore[return-value]


def test_which_tests_are_last_differs_from_seed_to_seed() -> None:
    pieces = ["one", "two", "three", "four"]
    configs = [options(until=1.0, seed=str(seed)) for seed in range(50)]
    assert {max(pieces, key=partial(until.turn, config)) for config in configs} == set(pieces)
    assert until.turn(configs[0], "one") == until.turn(options(until=2.0, seed="0"), "one"), "in every process"


def test_the_order_stays_where_there_is_time_for_all() -> None:
    assert {until.turn(options(until=None, seed="a"), piece) for piece in ("one", "two")} == {""}
