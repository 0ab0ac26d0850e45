"""A worker is frozen in the middle of its work while another takes over; then it is thawed and goes on.

It does not know that time has passed: it holds a batch, a claim or an open transaction, and tries to finish it. None of
that may be seen twice, and the worker must rejoin the group by itself.
"""

import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.testing.crashing_worker import Deed, Plan
from tests.faults.cells import CYCLE, FEEDS, PARKING, Source, waits
from tests.faults.chosen import chosen
from tests.faults.stage import TIMEOUTS, Stage

LONG_SECONDS = TIMEOUTS["transaction_timeout_ms"] / 1_000 + 2
"""Kafka has ended the frozen worker's transaction; it looks for overdue ones once a second."""


@dataclass(frozen=True)
class Freeze:
    """A place where a worker freezes."""

    source: Source
    call: str
    long: bool
    """Freeze it until all its timeouts have passed; otherwise until another worker owns its share."""

    def __str__(self) -> str:
        return f"{self.source.value}-after-{self.call}-{'long' if self.long else 'short'}"


def freezes() -> Iterable[Freeze]:
    """Return all places for longer than all timeouts, and those with work half done also until another owns it."""
    for source, calls in CYCLE.items():
        yield from (Freeze(source, call, long=True) for call in calls if call != "transaction.set_aside")
        half_done = calls[calls.index("transaction.claim") :]
        yield from (Freeze(source, call, long=False) for call in half_done)
    # It holds a batch that parks records, or parked records that it tries.
    yield from (Freeze(Source.PARKED, call, long=True) for call in PARKING)


def play(freeze: Freeze, servers: Servers, logs: Path) -> list[str]:
    """Freeze one of two workers, let the other take over, and wake the first."""
    feed = FEEDS[freeze.source]
    with Stage(servers, logs, retry_seconds_max=0.5) as stage:
        stage.ask()
        stage.request()
        first = stage.worker(Plan(freeze.call, after=True, deed=Deed.FREEZE))
        stage.worker()
        stage.until_shared(2)
        stage.until_drained()
        first.order.armed.set()
        with waits(freeze.source, stage):
            feed(stage)
            stage.until(lambda: first.frozen, f"the worker stands still after {freeze.call}")
        since = time.monotonic()
        stage.until_shared(1)
        stage.ask()
        if freeze.long:
            stage.request()
            stage.until_drained()
            stage.until(lambda: time.monotonic() > since + LONG_SECONDS, "everything has timed out")
        first.send(signal.SIGCONT)
        stage.until_shared(2)
        stage.ask()
        stage.request()
        stage.until_drained()
        stage.stop()
        return stage.problems()


@pytest.mark.parametrize(
    "cell",
    chosen(freezes(), "events-after-kafka.send_offsets-long", "requests-after-transaction.commit-short"),
    ids=str,
)
def test_a_worker_that_stands_still(cell: Freeze, problems: list[str]) -> None:
    assert problems == []
