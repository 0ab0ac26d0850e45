"""The cells of the crash matrix: where a worker dies, beside which others, and what it was doing."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dev.servers import Servers
from shared.testing.crashing_worker import Phase, Plan
from tests.faults.stage import Stage, Worker
from tests.faults.trail import DOWN


class Source(Enum):
    """What the worker does when it dies."""

    EVENTS = "events"
    """It handles events, and publishes what the handlers return."""
    REQUESTS = "requests"
    """It publishes what requests have put into the outbox, or scheduled for a moment."""
    PARKED = "parked"
    """It parks events that have to wait, and tries them."""


class Company(Enum):
    """The workers that go on."""

    ALONE = "alone"
    """No worker, until the dead one is started again in its place."""
    PAIR = "pair"
    """A second worker, which takes over; then the dead one is started again."""


@dataclass(frozen=True)
class Cell:
    """One way to die."""

    source: Source
    company: Company
    plan: Plan
    second: Plan | None = None
    """Where the dead one's replacement dies."""

    def __str__(self) -> str:
        then = f"-then-{self.second}" if self.second else ""
        return f"{self.source.value}-{self.company.value}-{self.plan}{then}"


HANDLING = (
    *("transaction.receive", "transaction.handle", "transaction.set_aside", "transaction.write_outbox"),
    "transaction.advance",
)
CLAIMING = (
    "transaction.lock_claims",
    "kafka.confirm",
    "transaction.forget",
    "transaction.claim",
)
PUBLISHING = ("kafka.begin", "kafka.produce", "kafka.send_offsets", "kafka.commit")
CYCLE = {
    Source.EVENTS: ("kafka.poll", "database.begin", *HANDLING, *CLAIMING, "transaction.commit", *PUBLISHING),
    Source.REQUESTS: (
        *("kafka.poll", "database.unpublished", "database.begin", *CLAIMING, "transaction.commit"),
        *PUBLISHING,
    ),
}
PARKING = (
    *("transaction.park", "transaction.commit", "database.waiting", "database.next_parked"),
    *("transaction.take", "database.tried"),
)
RESUMING = ("kafka.committed", "database.positions", "database.claims", "kafka.read_from")
FIRST = ("kafka.beginning", "database.start_positions", "kafka.begin", "kafka.send_offsets", "kafka.commit")
RECOVERY = ("database.hold_slot", "kafka.renew", *RESUMING)
START = ("database.take_slot", *RECOVERY, "kafka.poll")
SETTLED = (False, True)
FEEDS_MAX = 4
PATIENCE_SECONDS = 10.0
"""Longer than a session and a transaction together."""


def cells() -> Iterable[Cell]:
    """All cells."""
    for company in Company:
        for after in SETTLED:
            # Any call of a cycle that has work to do.
            for source, calls in CYCLE.items():
                yield from (Cell(source, company, Plan(call, after)) for call in calls)
            # Any call by which records are parked, and tried.
            yield from (Cell(Source.PARKED, company, Plan(call, after)) for call in PARKING)
            # Any call of the first start of a service, or of a worker that joins another one.
            calls = START if company is Company.PAIR else (*START, *FIRST)
            yield from (Cell(Source.EVENTS, company, Plan(call, after, Phase.START)) for call in calls)
            # Any call of a recovery, from a commit that never arrived and from one whose answer was lost.
            for source, did in ((Source.EVENTS, True), (Source.REQUESTS, False)):
                yield from (
                    Cell(source, company, Plan(call, after, Phase.RECOVERY, doubt_after=did))
                    for call in (*RECOVERY, "kafka.poll")
                )
    # Any call of a start that finds a claim of which Kafka has nothing, or everything.
    for first in (Plan("kafka.send_offsets", after=True), Plan("kafka.commit", after=True)):
        for after in SETTLED:
            yield from (
                Cell(Source.EVENTS, Company.ALONE, first, Plan(call, after, Phase.START))
                for call in (*START, "kafka.begin")
            )


def _request(stage: Stage) -> None:
    stage.request()
    stage.schedule()


def _have_to_wait(stage: Stage) -> None:
    stage.ask(stage.keys, wish="retry")
    stage.ask()


FEEDS: dict[Source, Callable[[Stage], object]] = {
    Source.EVENTS: Stage.ask,
    Source.REQUESTS: _request,
    Source.PARKED: _have_to_wait,
}


@contextmanager
def waits(source: Source, stage: Stage) -> Iterator[None]:
    """Keep down what the events of a feed wait for, if it is one of events that have to wait."""
    if source is Source.PARKED:
        stage.connection.execute(f"CREATE TABLE {DOWN} ()".encode())
    yield
    if source is Source.PARKED:
        stage.connection.execute(f"DROP TABLE {DOWN}".encode())


def play(cell: Cell, servers: Servers, logs: Path) -> list[str]:
    """Let a worker die as the cell says, go on, and return the problems found at the end."""
    feed = FEEDS[cell.source]
    with Stage(servers, logs, retry_seconds_max=0.5) as stage:
        stage.ask()
        stage.request()
        if cell.plan.phase is Phase.START:
            if cell.company is Company.PAIR:
                stage.worker()
                stage.until_drained()
                feed(stage)
            dying = stage.worker(cell.plan)
        else:
            dying = stage.worker(cell.plan)
            if cell.company is Company.PAIR:
                stage.worker()
                stage.until_shared(2)
            stage.until_drained()
            if cell.source is Source.PARKED:
                stage.connection.execute(f"CREATE TABLE {DOWN} ()".encode())
            dying.order.armed.set()
            if cell.plan.call == "transaction.set_aside":
                stage.ask(stage.keys, wish="reject", poison=True)
            feed(stage)
        ended = _fed_until_it_ends(dying, lambda: feed(stage))
        assert ended == -signal.SIGKILL, f"the worker did not come to {cell.plan}, it ended with {ended}"
        stage.ask()
        _request(stage)
        if cell.second:
            assert stage.worker(cell.second).ended() == -signal.SIGKILL, f"the worker did not come to {cell.second}"
        if cell.source is Source.PARKED:
            stage.connection.execute(f"DROP TABLE {DOWN}".encode())
        if cell.company is Company.PAIR:
            stage.until_drained()
        stage.worker()
        if cell.company is Company.PAIR:
            stage.until_shared(2)
        feed(stage)
        stage.until_drained()
        stage.stop()
        return stage.problems()


def _fed_until_it_ends(worker: Worker, feed: Callable[[], object]) -> int:
    """Feed the worker until it ends; return its exit code. On a busy machine it may lose its session to the other
    worker, and is fed again when it is back.
    """
    for _ in range(FEEDS_MAX):
        try:
            return worker.ended(PATIENCE_SECONDS)
        except AssertionError:
            feed()
    return worker.ended()
