"""A busy worker pauses so that its batches grow; an idle one, and one with large batches, never does."""

from collections.abc import Iterator

import pytest

from shared.worker.pace import Pace

CYCLE_SECONDS = 0.02
BATCH_RECORDS = 1_000
PAUSE_MAX = 0.2


class Worker:
    """A worker on a clock of its own: records come evenly, and a cycle takes as long whatever its batch."""

    def __init__(self, rate: float, *, seconds_max: float = PAUSE_MAX, cycle_seconds: float = CYCLE_SECONDS) -> None:
        self._pace = Pace(seconds_max, BATCH_RECORDS)
        self._every = 1 / rate
        self._cycle = cycle_seconds
        self.now = 0.0
        self.handled = 0
        self.pauses: list[float] = []
        self.batches: list[int] = []

    def run(self, seconds: float) -> "Worker":
        """Work for so long."""
        end = self.now + seconds
        while self.now < end:
            began = self.now
            self.now = max(self.now, (self.handled + 1) * self._every)  # it waits for the next record
            waited = self.now - began
            batch = min(int(self.now / self._every + 1e-9) - self.handled, BATCH_RECORDS)
            self.handled += batch
            self.now += self._cycle
            self.batches.append(batch)
            self.pauses.append(self._pace.after(self.now - began, waited, batch))
            self.now += self.pauses[-1]
        return self


def test_a_worker_that_mostly_waits_is_never_delayed() -> None:
    worker = Worker(rate=10).run(10)
    assert set(worker.pauses) == {0.0}
    assert set(worker.batches) == {1}


def test_a_busy_worker_has_a_third_of_the_cycles_with_three_times_the_records() -> None:
    hurried = Worker(rate=200, seconds_max=0).run(10)
    paced = Worker(rate=200).run(10)
    assert set(hurried.pauses) == {0.0}
    assert len(paced.batches) == pytest.approx(len(hurried.batches) / 3, rel=0.1)
    assert paced.batches[-1] == 3 * hurried.batches[-1]


def test_it_pauses_for_as_long_as_two_cycles_take_and_no_longer_than_allowed() -> None:
    assert Worker(rate=200).run(10).pauses[-1] == pytest.approx(2 * CYCLE_SECONDS)
    assert Worker(rate=200, cycle_seconds=0.2).run(10).pauses[-1] == PAUSE_MAX


def test_large_batches_are_not_delayed() -> None:
    worker = Worker(rate=100_000).run(10)
    assert worker.batches[-1] == BATCH_RECORDS
    assert worker.pauses[-1] == 0.0


def test_a_worker_with_more_to_go_on_with_is_not_delayed() -> None:
    pace = Pace(PAUSE_MAX, BATCH_RECORDS)
    assert [pace.after(CYCLE_SECONDS, 0.0, 1, more=True) for _ in range(100)] == [0.0] * 100


def test_one_slow_cycle_of_an_idle_worker_does_not_count() -> None:
    worker = Worker(rate=10).run(10)
    assert worker._pace.after(0.3, 0.0, 1) == 0.0


def test_when_the_load_is_gone_so_are_the_pauses() -> None:
    pace = Pace(PAUSE_MAX, BATCH_RECORDS)

    def rested() -> Iterator[float]:
        for _ in range(100):
            yield pace.after(CYCLE_SECONDS, 0.0, 1)
        for _ in range(20):  # a record every 100 ms
            yield pace.after(0.1, 0.1 - CYCLE_SECONDS, 1)

    pauses = list(rested())
    assert pauses[99] > 0
    assert pauses[-1] == 0
