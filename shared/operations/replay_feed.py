"""Feed the windows of a replay through the handlers: the cycle of a worker, on ports that own no lane.

So a batch is split, a record set aside or parked as in a worker, and effect, inbox and next offset are one transaction.
A cycle without a lane never gets to its Kafka transaction.
"""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from sqlalchemy import text

from ..errors import CommandFailed, DatabaseUnavailable, RecoveryNeeded, ServiceBroken
from ..postgres import parked
from ..postgres.handlers import Handlers
from ..protocol.cycle import Cycle, Progress
from ..protocol.ports import Input
from ..telemetry import failures
from ..worker.main_loop import limits_of
from ..worker.retries import ParkedRetries, Retries
from ..worker.stopping import Stopping
from .maintenance import Context
from .output import echo
from .replay_reading import Windows
from .replay_schema import ReplayDatabase, Window

POLL_SECONDS = 0.2
"""How long to wait for records: so long it takes to end after Ctrl+C."""

PROGRESS_SECONDS = 5.0
"""Between two lines of progress."""

STANDSTILL_SECONDS = 60.0
"""Without any progress for so long, what is waited for does not come."""

COUNT_SECONDS = 1.0
"""Between two counts of what is parked, as in a worker."""

SHOWN_MAX = 20
"""Dead letters, or inputs, that are shown; the tables have all."""

FAILED_MAX = 100
"""Records at which a handler failed, in one run: so many are no bad records, but a handler that does not work."""

_LEFT = text("""
    SELECT (SELECT count(*) FROM exactly_once_dead_letter), count(*), count(DISTINCT (topic, partition, key_hash))
    FROM exactly_once_parked
""")


@dataclass
class Done:
    """What one run has done."""

    handled: int = 0
    duplicates: int = 0
    discarded: int = 0
    failed: int = 0
    """Records that were set aside although a handler got them."""
    aside: int = 0
    stopped: bool = False
    """Whether it was asked to stop before the end."""
    dead_letters: int = 0
    """In the schema, of all runs."""
    parked: int = 0
    parked_keys: int = 0
    windows: Mapping[Input, tuple[int, int]] = field(default_factory=dict)
    """Where each input stands, and where it ends."""


class Feed:
    """One run of a replay."""

    def __init__(self, context: Context, database: ReplayDatabase, windows: Mapping[Input, Window]) -> None:
        self._context = context
        self._database = database
        self._ends = {source: window.until for source, window in windows.items()}
        self._first = {source: window.first for source, window in windows.items()}
        self._done = Done()
        self._began = self._told = self._moved = time.monotonic()
        self._left = self._total = sum(self._ends.values()) - sum(self._first.values())

    def run(self) -> Done:
        """Feed all that is left, or until SIGINT or SIGTERM. Raises `CommandFailed`, or `Unavailable`: running the
        command again goes on.
        """
        service, settings = self._context.service, self._context.settings
        try:
            with closing(Windows(self._context, self._ends)) as kafka, self._asked_to_stop() as stopping:
                handlers = Handlers(service)
                cycle = Cycle(service.name, kafka, self._database, handlers.open, limits_of(settings))
                self._feed(cycle, stopping, Retries(settings.retry_seconds_max))
                if not stopping.is_set():
                    self._last_attempts(cycle, stopping)
                self._done.stopped = stopping.is_set()
            self._done.windows = {
                source: (cycle.seen.get(source, self._first[source]), end) for source, end in self._ends.items()
            }
            with self._database.engine.connect() as connection, connection.begin():
                counts = connection.execute(_LEFT).one()
            self._done.dead_letters, self._done.parked, self._done.parked_keys = counts
        except RecoveryNeeded as doubt:
            raise DatabaseUnavailable(f"{doubt}. What was committed is kept, and the same command goes on") from doubt
        return self._done

    def _feed(self, cycle: Cycle, stopping: Stopping, retries: Retries) -> None:
        keys, resumes, counted = ParkedRetries(), 0, self._began
        while not stopping.is_set():
            progress = cycle.run(POLL_SECONDS, report=True)
            self._note(progress)
            if progress.failed is not None and not cycle.parked():
                self._moved = time.monotonic()  # it tries a smaller batch next, or sets the record aside
            if cycle.resumes != resumes:  # a process that handled records may have been ended by one of them
                resumes = cycle.resumes
                for source, attempt in self._database.attempts().items():
                    cycle.suspect(source, attempt)
            counts = time.monotonic() > counted + COUNT_SECONDS
            if keys.are_due(cycle, count=counts):
                counted = time.monotonic() if counts else counted
                tried = cycle.retry(count=counts)
                self._note(tried)
                keys.tried(cycle, idle=tried.idle)
            retries.release(cycle)
            if resumes and self._is_fed(cycle):
                return
            self._refuse_standstill(cycle)

    def _is_fed(self, cycle: Cycle) -> bool:
        """Tell the progress; return whether all was read."""
        now = time.monotonic()
        left = sum(end - min(cycle.seen[source], end) for source, end in self._ends.items())
        if left < self._left:
            self._left, self._moved = left, now
        if left and now > self._told + PROGRESS_SECONDS:
            self._told = now
            echo(self._progress(cycle, now))
        return not left

    def _progress(self, cycle: Cycle, now: float) -> str:
        done = self._total - self._left
        rate = done / max(now - self._began, 0.001)
        moving = [source for source, end in self._ends.items() if cycle.seen[source] < end]
        where = [f"{source} at {cycle.seen[source]:,} of {self._ends[source]:,}" for source in moving[:SHOWN_MAX]]
        more = [f"{len(moving) - SHOWN_MAX} more inputs"] if len(moving) > SHOWN_MAX else []
        return f"{done:,} offsets done, {self._left:,} left, {rate:,.0f}/s: {', '.join([*where, *more])}"

    def _refuse_standstill(self, cycle: Cycle) -> None:
        for source in cycle.parked():
            record, error = cycle.waits_for(source)
            late = time.monotonic() > self._moved + STANDSTILL_SECONDS
            if late or isinstance(error, ServiceBroken):
                why = ": ".join(failures.describe(error))
                raise CommandFailed(f"{source} waits at {record.offset}: {why}. Mend that, and run the command again")
        if time.monotonic() > self._moved + STANDSTILL_SECONDS:
            raise CommandFailed(
                f"no record has come for {STANDSTILL_SECONDS:.0f} s, and {self._left:,} offsets are left: look at the "
                f"brokers, and run the command again"
            )

    def _last_attempts(self, cycle: Cycle, stopping: Stopping) -> None:
        """Try what is parked until none of it succeeds any more: nothing else is to come that it could wait for."""
        before = -1
        while cycle.waiting and self._done.handled + self._done.aside != before and not stopping.is_set():
            before = self._done.handled + self._done.aside
            with self._database.engine.begin() as connection:
                parked.retry_now(connection, source=None, key=None)
            # One pass: what failed in it may be due again before it ends.
            for _ in range(sum(waiting.records for waiting in cycle.waiting.values())):
                if (progress := cycle.retry(count=True)).idle or stopping.is_set():
                    break
                self._note(progress)

    def _note(self, progress: Progress) -> None:
        discarded, self._database.outbox.batch = self._database.outbox.batch, 0
        if progress.failed is not None:
            failures.log_batch(progress.failed, progress.failed_at, progress.received)
            return
        if progress.handled or progress.set_aside or progress.parked:
            self._moved = time.monotonic()
        self._done.handled += progress.handled
        self._done.duplicates += progress.duplicates
        self._done.discarded += discarded
        for dead_letter in progress.set_aside:
            self._done.aside += 1
            self._done.failed += dead_letter.envelope is not None
            if self._done.aside <= SHOWN_MAX:
                record, why = dead_letter.record, ": ".join(failures.describe(dead_letter.error))
                echo(f"set aside: {record.input} offset {record.offset}: {why}")
        if self._done.failed > FAILED_MAX:
            raise CommandFailed(
                f"a handler failed at more than {FAILED_MAX} records. Mend it, drop the schema, and begin again"
            )

    @contextmanager
    def _asked_to_stop(self) -> Iterator[Stopping]:
        """Note SIGINT and SIGTERM; the second one ends the process, which loses nothing."""
        stopping = Stopping()
        if threading.current_thread() is not threading.main_thread():
            yield stopping
            return

        def ask(number: int, _frame: object) -> None:
            stopping.set()
            signal.signal(number, signal.SIG_DFL)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        alarm = signal.getsignal(signal.SIGALRM)
        if not self._context.settings.debug_no_timeouts:
            self._database.deadline.install()
        try:
            yield stopping
        finally:
            for number, handler in {**before, signal.SIGALRM: alarm}.items():
                signal.signal(number, handler)
