"""A worker loses its database session between any two of its calls, even right after a COMMIT whose answer then never
comes. It goes on by itself in the same process.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.testing.crashing_worker import Deed, Plan
from tests.faults.cells import CYCLE, FEEDS, PARKING, Source, waits
from tests.faults.chosen import chosen
from tests.faults.stage import Stage


@dataclass(frozen=True)
class Cut:
    """A place where the session ends."""

    source: Source
    call: str

    def __str__(self) -> str:
        return f"{self.source.value}-after-{self.call}"


def cuts() -> Iterable[Cut]:
    """Return a cut after every call of a cycle, and after those by which records are parked, and tried."""
    for source, calls in {**CYCLE, Source.PARKED: PARKING}.items():
        yield from (Cut(source, call) for call in calls if call != "transaction.set_aside")


def play(cut: Cut, servers: Servers, logs: Path) -> list[str]:
    """Let a worker lose its session as the cut says, and go on."""
    feed = FEEDS[cut.source]
    with Stage(servers, logs, retry_seconds_max=0.5) as stage:
        worker = stage.worker(Plan(cut.call, after=True, deed=Deed.CUT))
        stage.ask()
        stage.request()
        stage.until_drained()
        pid = worker.pid
        worker.order.armed.set()
        with waits(cut.source, stage):
            feed(stage)
            stage.until(worker.order.happened.is_set, f"the session is cut after {cut.call}")
        stage.ask()
        stage.request()
        stage.until_drained()
        assert (worker.pid, worker.restarts) == (pid, 0)
        stage.stop()
        return stage.problems()


@pytest.mark.parametrize(
    "cell", chosen(cuts(), "events-after-transaction.commit", "requests-after-kafka.commit"), ids=str
)
def test_a_worker_that_loses_its_session(cell: Cut, problems: list[str]) -> None:
    assert problems == []
