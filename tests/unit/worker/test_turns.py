"""A worker asks the outbox soon after work, then less and less often, and reports once a second."""

from itertools import pairwise

import pytest

from shared.worker.turns import REPORT_SECONDS, WAIT_MAX, WAIT_MIN, WAIT_TOLD, Turn, Turns


class Loop:
    """A main loop on a clock of its own, whose turns take no time but their waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self._turns = Turns()

    def turn(self, *, idle: bool = True, wakes: bool = True, knows: bool | None = None) -> Turn:
        """Make a turn, by default one that finds a row if it finds anything."""
        turn = self._turns.begin(self.now)
        self.now += turn.seconds
        self._turns.end(turn, self.now, idle=idle, wakes=wakes, knows=idle if knows is None else knows)
        return turn

    def rest(self, *, wakes: bool = True) -> "Loop":
        """Find nothing to do for long."""
        for _ in range(50):
            self.turn(wakes=wakes)
        return self


def test_a_wait_ends_when_something_is_due() -> None:
    turns = Turns()
    for _ in range(10):
        turn = turns.begin(100.0)
        turns.end(turn, 100.0, idle=True, wakes=True, knows=True)
    assert turns.begin(100.0, 0.03).seconds == 0.03
    assert turns.begin(100.0, 0.0).seconds == 0.0


@pytest.mark.parametrize("idle", [False, True], ids=["it found a row", "it was told of a row that was gone"])
def test_it_waits_longer_and_longer_after_a_row_that_others_may_have_counted_on(idle: bool) -> None:
    loop = Loop().rest()
    loop.turn(idle=idle, knows=False)
    waits = [loop.turn().seconds for _ in range(3)]
    assert waits[0] == WAIT_TOLD
    assert waits == sorted(set(waits))


def test_a_worker_that_nobody_would_wake_asks_soon_after_work() -> None:
    loop = Loop().rest(wakes=False)
    loop.turn(idle=False, wakes=False)
    waits = [loop.turn(wakes=False).seconds for _ in range(3)]
    assert waits == [WAIT_MIN, pytest.approx(4 * WAIT_MIN), pytest.approx(16 * WAIT_MIN)]


@pytest.mark.parametrize(("wakes", "first"), [(True, WAIT_MAX), (False, WAIT_MIN)], ids=["woken", "not woken"])
def test_after_records_alone_it_asks_late_if_it_would_be_woken(wakes: bool, first: float) -> None:
    loop = Loop().rest(wakes=wakes)
    for _ in range(3):
        loop.turn(idle=False, wakes=wakes, knows=True)
    assert loop.turn(wakes=wakes).seconds == first


def test_rows_that_are_known_to_wait_are_published_at_once() -> None:
    loop = Loop().rest()
    loop.turn(idle=False, knows=True)
    loop._turns.publish_now()
    assert loop.turn().seconds == 0


@pytest.mark.parametrize(("wakes", "longest"), [(True, REPORT_SECONDS), (False, WAIT_MAX)])
def test_it_asks_rarely_only_if_it_would_be_woken(wakes: bool, longest: float) -> None:
    loop = Loop().rest(wakes=wakes)
    assert max(loop.turn(wakes=wakes).seconds for _ in range(20)) == longest
    began = loop.now
    turns = 0
    while loop.now < began + 10 * REPORT_SECONDS:
        turns += 1
        loop.turn(wakes=wakes)
    assert turns <= 1.2 * 10 * REPORT_SECONDS / longest


def test_a_wait_that_was_long_is_short_once_nothing_would_end_it() -> None:
    loop = Loop().rest()
    loop.turn(wakes=False)
    assert loop.turn(wakes=False).seconds <= WAIT_MAX


def test_a_turn_that_failed_is_followed_by_a_short_wait() -> None:
    loop = Loop().rest()
    loop._turns.begin(loop.now)
    assert loop.turn().seconds == WAIT_MIN


def test_what_was_done_is_reported_within_a_second_and_not_more_often() -> None:
    loop = Loop().rest()
    reports = []
    for _ in range(1_000):
        turn = loop.turn(idle=False)
        if turn.report:
            reports.append(loop.now)
    gaps = [after - before for before, after in pairwise(reports)]
    assert min(gaps) >= REPORT_SECONDS - 2 * WAIT_MIN
    assert max(gaps) <= REPORT_SECONDS + 2 * WAIT_MIN


def test_a_report_does_not_wait_for_more_records() -> None:
    loop = Loop().rest()
    assert loop.turn(idle=False).report
    assert not loop.turn(idle=False).report
    done = loop.now
    while not (turn := loop.turn()).report:
        pass
    assert turn.seconds == WAIT_MIN
    assert loop.now <= done + REPORT_SECONDS + 2 * WAIT_MIN
