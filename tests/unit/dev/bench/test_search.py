"""The most that is borne is found, with few runs."""

import pytest

from dev.bench.search import PRECISION, most


class Machine:
    """Bears `most` at most; its first run at each rate of `stalls` fails all the same."""

    def __init__(self, most: int, *stalls: int) -> None:
        self.most = most
        self.stalls = set(stalls)
        self.runs: list[int] = []

    def bears(self, rate: int) -> bool:
        self.runs.append(rate)
        stalled = rate in self.stalls
        self.stalls.discard(rate)
        return rate <= self.most and not stalled


@pytest.mark.parametrize("limit", [1, 2, 3, 17, 49, 50, 51, 130, 199, 400, 1_234])
def test_what_is_found_is_borne_and_a_tenth_more_is_not(limit: int) -> None:
    machine = Machine(limit)

    found = most(machine.bears, 50)

    assert found <= limit
    assert found * PRECISION >= limit or found + 1 > limit
    assert found in machine.runs
    assert len(machine.runs) <= 25


def test_one_stall_does_not_decide() -> None:
    assert most(Machine(430, 50, 100, 200, 400).bears, 50) == most(Machine(430).bears, 50) >= 400


def test_a_rate_that_failed_twice_is_not_tried_again() -> None:
    machine = Machine(130)
    most(machine.bears, 50)
    assert [machine.runs.count(rate) for rate in sorted({*machine.runs})] == [
        1 if rate <= 130 else 2 for rate in sorted({*machine.runs})
    ]


def test_a_system_that_bears_nothing_is_told_from_one_that_bears_little() -> None:
    assert most(Machine(0).bears, 50) == 0


def test_a_search_ends_when_everything_is_borne() -> None:
    assert most(lambda _: True, 50) >= 50_000
