"""A worker: it takes a slot, runs cycles, recovers from doubt, and stops when it is asked to.

Everything that has to do with clocks, threads and signals is here and not in `shared.cycle`.
"""

import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from shared import failures, outages, telemetry
from shared.cycle import Cycle, Limits, Progress
from shared.errors import Brake, KafkaUnavailable, RecoveryNeeded, Stop, TooManyRecoveries, Unavailable
from shared.handling import Handlers, Service
from shared.housekeeping import Housekeeping
from shared.kafka import KafkaClient
from shared.program import program
from shared.settings import Settings
from shared.telemetry import log
from shared.transaction import WorkerDatabase
from shared.watchdog import Watchdog

WAIT_MIN, WAIT_MAX = 0.005, 0.1
"""Seconds that an idle worker waits for records before it looks into the outbox again: short after work, longer the
longer nothing happens.
"""

REPORT_SECONDS = 1.0
"""How often H is made known to Kafka when nothing is said. Lag tools read it; the protocol does not need it."""

PAUSE_MIN, PAUSE_MAX = 0.1, 2.0
"""Seconds between two attempts while a server is not available."""

STANDBY_SECONDS = 1.0
"""How often a worker without a slot asks for one."""

REPEAT_SECONDS = 60.0
"""How often a stopped worker repeats why."""

MINUTE = 60.0

DETAIL_MAX = 1_000
"""Characters of an error in a log line; a database error repeats whole statements."""


class Worker:
    """One worker process of a service."""

    def __init__(
        self,
        *,
        settings: Settings,
        service: Service,
        database: WorkerDatabase,
        check: Callable[[], None],
        connect: Callable[[int], KafkaClient],
        housekeeping: Housekeeping,
    ) -> None:
        self._settings = settings
        self._service = service
        self._database = database
        self._check = check
        self._connect = connect
        self._housekeeping = housekeeping
        self._watchdog = Watchdog()
        self._stopping = threading.Event()
        self._ready = False
        self._enter("starting")
        self._budget = 1.5 * settings.transaction_timeout_ms / 1_000
        self._recoveries: deque[float] = deque()
        self._set_aside: deque[float] = deque()
        self._due: dict[object, float] = {}
        self._random = random.Random()  # noqa: S311 - it spreads attempts in time

    def ready(self) -> tuple[bool, str]:
        """Whether this worker works, or stands by to work; and what it does."""
        return self._ready, self._state

    def _enter(self, state: str, detail: str = "") -> None:
        """Be in a state, in all that shows it. What a worker owns is known while it works, and only then."""
        self._state = f"{state}: {detail}" if detail else state
        telemetry.STATE.show({(name,): float(name == state) for name in telemetry.STATES})
        if state != "working":
            telemetry.LANES.forget()
            telemetry.PARKED.forget()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises `Refused` or `Exit` if the process must end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        kafka: KafkaClient | None = None
        try:
            self._check()
            if not self._take_slot():
                return
            slot = self._database.slot
            assert slot is not None
            kafka = self._connect(slot)
            self._housekeeping.start()
            log.info("worker_started", slot=slot)
            self._work(kafka)
            if self._settings.leave_on_stop:
                kafka.leave()
        except Stop as stop:
            if kafka is not None:
                kafka.leave()
                kafka.close()
                kafka = None
            # The slot too: an operator decides while no worker holds one.
            self._database.close()
            self._stopped(stop)
        finally:
            self._ready = False
            self._enter("ending")
            self._watchdog.allow("closing", self._settings.grace_seconds)
            self._housekeeping.stop()
            if kafka is not None:
                kafka.close()
            self._database.close()
        log.info("worker_ended")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stopping.set()
        self._watchdog.allow("stopping", self._settings.grace_seconds)

    def _take_slot(self) -> bool:
        """Take a slot, or stand by until one is free; False if the worker was asked to stop meanwhile."""
        settled = False
        while not self._stopping.is_set():
            wait = STANDBY_SECONDS
            try:
                if not settled:
                    wait = self._database.settle_seconds()
                    settled = wait <= 0
                if settled:
                    if self._database.take_slot():
                        return True
                    wait = STANDBY_SECONDS
                    if not self._ready:
                        log.info(
                            "standby",
                            slots=self._settings.worker_slots,
                            note="all slots are taken; this worker takes the next free one",
                        )
                    self._ready = True
                    self._enter("standby", "all slots are taken")
                outages.DATABASE.answered("worker")
            except Unavailable as error:
                self._wait_for(error)
            self._stopping.wait(min(wait, STANDBY_SECONDS))
        return False

    def _work(self, kafka: KafkaClient) -> None:
        limits = Limits(self._settings.batch_records, self._settings.claim_rows, self._settings.retry_attempts_max)
        cycle = Cycle(self._service.name, kafka, self._database, Handlers(self._service).open, limits)
        in_doubt, wait, pause, reported = True, WAIT_MIN, PAUSE_MIN, 0.0
        while not self._stopping.is_set():
            try:
                if in_doubt:
                    # Three systems are asked one after the other, and each question has its own limit.
                    self._watchdog.allow("recovery", 2 * self._budget)
                    self._enter("recovering")
                    cycle.recover()
                    outages.KAFKA.answered("worker")
                    in_doubt = False
                self._watchdog.allow("cycle", self._budget)
                began = time.monotonic()
                report = began - reported >= REPORT_SECONDS
                progress = cycle.run(wait, report=report)
                if report:
                    reported = began
                    _show_lag(kafka, cycle)
                outages.KAFKA.answered("worker")
                outages.DATABASE.answered("worker")
                wait = min(2 * wait, WAIT_MAX) if progress.idle else WAIT_MIN
                pause = PAUSE_MIN
                self._note(cycle, progress, time.monotonic() - began)
            except RecoveryNeeded as doubt:
                in_doubt = True
                self._count(doubt)
            except Unavailable as error:
                self._wait_for(error)
                self._watchdog.rest()
                self._stopping.wait(pause * self._random.uniform(0.5, 1.0))
                pause = min(2 * pause, PAUSE_MAX)

    def _wait_for(self, error: Unavailable) -> None:
        self._ready = False
        self._enter("waiting", str(error))
        outage = outages.KAFKA if isinstance(error, KafkaUnavailable) else outages.DATABASE
        outage.missed("worker", str(error))
        log.warning("waiting", error=type(error).__name__, detail=str(error)[:DETAIL_MAX])

    def _count(self, doubt: RecoveryNeeded) -> None:
        cause = type(doubt).__name__
        telemetry.RECOVERIES.labels(cause).inc()
        log.warning("recovery", cause=cause, detail=str(doubt)[:DETAIL_MAX])
        if doubt.counted and _within_minute(self._recoveries, 1) > self._settings.recoveries_per_minute_max:
            raise TooManyRecoveries(
                f"more than {self._settings.recoveries_per_minute_max} recoveries in a minute; the last one: {doubt}"
            )

    def _note(self, cycle: Cycle, progress: Progress, seconds: float) -> None:
        """Keep the metrics, release parked inputs in time, and brake when too much is set aside."""
        now = time.monotonic()
        for source, attempts in cycle.parked().items():
            if source not in self._due:
                pause = min(0.1 * 2 ** min(attempts, 16), self._settings.retry_seconds_max) * self._random.uniform(
                    0.5, 1.0
                )
                self._due[source] = now + pause
                record, error = cycle.waits_for(source)
                failures.log_retry(error, record, attempts, pause)
            elif self._due[source] <= now:
                del self._due[source]
                cycle.unpark(source)
        self._due = {source: due for source, due in self._due.items() if source in cycle.parked()}
        owned = cycle.owned
        self._enter(
            "working",
            f"{len(owned.inputs)} inputs, {len(owned.lanes)} lanes"
            + (f", {len(cycle.parked())} parked" if cycle.parked() else ""),
        )
        self._ready = not cycle.parked()
        telemetry.PARKED.set(len(cycle.parked()))
        telemetry.LANES.set(len(owned.lanes))
        if progress.idle:
            return
        telemetry.CYCLE.observe(seconds)
        telemetry.RECEIVED.inc(progress.received)
        telemetry.HANDLED.inc(progress.handled)
        telemetry.DUPLICATES.inc(progress.duplicates)
        telemetry.SKIPPED.inc(progress.skipped)
        telemetry.SAID.inc(progress.said)
        if progress.failed is not None:
            telemetry.ATTEMPTS_FAILED.inc()
            failures.log_batch(progress.failed, progress.failed_at, progress.received)
        for letter in progress.set_aside:
            telemetry.SET_ASIDE.inc()
            failures.log_set_aside(letter.error, letter.record)
        if _within_minute(self._set_aside, len(progress.set_aside)) > self._settings.set_aside_per_minute_max:
            last = ": ".join(failures.describe(progress.set_aside[-1].error))[: failures.LOGGED_MAX]
            raise Brake(
                f"more than SET_ASIDE_PER_MINUTE_MAX = {self._settings.set_aside_per_minute_max} records were set "
                f"aside in a minute; the last one for {last}. Mend the handler or the producer, then restart; re-drive "
                f"with `{program(self._service.name)} dead-letters redrive --all`"
            )

    def _stopped(self, stop: Stop) -> None:
        """Stay alive and unready, and repeat what an operator has to decide, until the process is asked to end."""
        self._watchdog.rest()
        self._ready = False
        self._enter("stopped", f"{type(stop).__name__}: {stop}")
        while not self._stopping.is_set():
            log.critical(
                "stopped", error=type(stop).__name__, detail=str(stop), note="decide, then restart this worker"
            )
            self._stopping.wait(REPEAT_SECONDS)


def _show_lag(kafka: KafkaClient, cycle: Cycle) -> None:
    """Set the lag of the inputs owned, and only of those: what moved away is shown by its new owner."""
    ends = {source: kafka.end(source) for source in cycle.seen}
    telemetry.LAG.show(
        {
            (source.topic, str(source.partition)): float(max(0, end - handled))
            for source, handled in cycle.seen.items()
            if (end := ends[source]) is not None
        }
    )


def _within_minute(times: deque[float], more: int) -> int:
    """Note `more` occurrences now, and count those of the last minute."""
    now = time.monotonic()
    times.extend([now] * more)
    while times and times[0] < now - MINUTE:
        times.popleft()
    return len(times)
