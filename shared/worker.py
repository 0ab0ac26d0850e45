"""A worker: it takes a slot, runs cycles, recovers from doubt, and stops when it is asked to.

Everything that has to do with clocks, threads and signals is here and not in `shared.cycle`.
"""

import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from shared import failures, outages, telemetry
from shared.blame import EqualFailures
from shared.budgets import CLIENTS_SECONDS, CLOSE_SECONDS, cycle_seconds, recovery_seconds
from shared.consumer import max_poll_ms
from shared.cycle import Cycle, Limits, Progress
from shared.deadline import in_database
from shared.errors import (
    Brake,
    ContentStuck,
    Fenced,
    KafkaUnavailable,
    NotDone,
    NotLetIn,
    RecoveryNeeded,
    Refused,
    Stop,
    TooManyRecoveries,
    Unavailable,
    Unproven,
)
from shared.handling import Handlers, Service
from shared.housekeeping import Housekeeping
from shared.kafka import KafkaClient
from shared.observer import Observer
from shared.program import program
from shared.settings import Settings
from shared.slots import SETTLE_SECONDS
from shared.telemetry import log
from shared.topic_watch import TopicWatch
from shared.transaction import WorkerDatabase
from shared.waits import MAIN_LOOP, Wait
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

CONFIRM_SECONDS = 1.0
"""Before a worker stops, all servers are asked once more; so long after the first answer, another may have come up."""

PROBE_MIN, PROBE_MAX = 2.0, 15.0
"""Seconds between two looks of a stopped worker whether there is still a reason; so long after a decision it works."""

LISTED_MAX = 20
"""Reasons in one log line."""

CLOSING_MAX = 3
"""So many replaced clients may still be closing."""

FENCED_PER_MINUTE_MAX = 5
"""A frozen broker that wakes may let a worker's client fence itself, once; more often there is somebody else."""

MINUTE = 60.0

DETAIL_MAX = 1_000
"""Characters of an error in a log line; a database error repeats whole statements."""


CAUSE_MAX, CAUSES_MAX, CAUSES_KEPT = 300, 5, 1_000
"""Characters of a cause of recoveries; how many causes are named, the most frequent first; how many are kept."""


class Worker:
    """One worker process of a service."""

    def __init__(
        self,
        *,
        settings: Settings,
        service: Service,
        database: WorkerDatabase,
        check: Callable[[], None],
        look_at_topics: Callable[[], Stop | None],
        stands: Callable[[Stop | NotLetIn], Sequence[Stop]],
        connect: Callable[[int], KafkaClient],
        housekeeping: Housekeeping,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._service = service
        self._database = database
        self._check = check
        self._look_at_topics = look_at_topics
        self._stands = stands
        self._connect = connect
        self._housekeeping = housekeeping
        self._observer = observer
        self._watchdog = Watchdog(last_words=self._last_words, off=settings.debug_no_timeouts)
        self._stopping = threading.Event()
        self._ready = False
        self._share: Wait | None = None
        self._enter("starting")
        self._budget = cycle_seconds(settings)
        self._recoveries: deque[float] = deque()
        self._causes: deque[str] = deque(maxlen=CAUSES_KEPT)
        self._fences: deque[float] = deque()
        self._set_aside: deque[float] = deque()
        self._equal_failures = EqualFailures(settings.equal_failures_max, program(service.name))
        self._due: dict[object, float] = {}
        self._random = random.Random()  # noqa: S311 - it spreads attempts in time

    def ready(self) -> tuple[bool, str]:
        """Whether this worker works, or stands by to work; and what it does."""
        if self._settings.debug_no_timeouts:
            return False, f"debugging (DEBUG_NO_TIMEOUTS): {self._state}"
        silence = self._observer.silence()
        if self._ready and silence:  # the main loop may wait for it, and tell nothing
            return False, silence
        cause = "" if self._state.startswith("waiting") else silence
        return self._ready, "; ".join(filter(None, (self._state, cause, MAIN_LOOP.words(), self._observer.held_back())))

    def _enter(self, state: str, detail: str = "") -> None:
        """Be in a state, in all that shows it. What a worker owns is known while it works, and only then."""
        self._state = f"{state}: {detail}" if detail else state
        if self._share is not None:
            MAIN_LOOP.end(self._share)
            self._share = None
        telemetry.STATE.show({(name,): float(name == state) for name in telemetry.STATES})
        if state != "working":
            self._observer.own(())
            telemetry.LANES.forget()
            telemetry.PARKED.forget()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises `Refused` or `Exit` if the process must end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._settings.debug_no_timeouts:
            log.warning(
                "debugging",
                note="DEBUG_NO_TIMEOUTS: no watchdog, no budget of handlers, no end of idle sessions. This worker "
                "holds its locks for as long as a breakpoint stands, and is never ready. Not for production",
            )
        else:
            self._database.deadline.install()
        live = self._begin
        try:
            while not self._stopping.is_set():
                try:
                    live()
                except Stop as stop:
                    # The slot too: an operator decides while no worker holds one.
                    self._database.close()
                    self._observer.start()
                    self._stopped(stop)
                live = self._live
        finally:
            self._ready = False
            self._enter("ending")
            self._watchdog.allow("closing", self._settings.grace_seconds)
            self._housekeeping.stop()
            self._observer.stop()
            self._database.close()
        log.info("worker_ended")

    def _begin(self) -> None:
        self._checked()
        self._observer.start()
        self._live()

    def _live(self) -> None:
        """Take a slot, and work until the process is asked to end. Raises `Stop` only if it is proven."""
        if not self._take_slot():
            return
        slot = self._database.slot
        assert slot is not None
        self._housekeeping.start()
        watch = TopicWatch(self._look_at_topics)
        try:
            self._work(slot, watch)
        finally:
            watch.stop()

    def _checked(self) -> None:
        """Check what must hold before a worker works. Raises `Stop` only if it is proven."""
        while not self._stopping.is_set():
            try:
                self._check()
            except Stop as stop:
                self._prove(stop)
            else:
                return

    def _last_words(self, what: str) -> dict[str, object]:
        """Say where the main thread is stuck and with which record, and note that for the next process."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        where = failures.stack(frame) if frame is not None else ""
        if self._database.at is None:
            return {"traceback": where}
        record, handler = self._database.at
        if what == "cycle" and frame is not None and not in_database(frame):
            with suppress(SQLAlchemyError):
                self._database.note_stuck(record, f"{handler} did not come back within {self._budget:g} s", where)
        return {"handler": handler, **failures.facts(record), "traceback": where}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stopping.set()
        self._watchdog.allow("stopping", self._settings.grace_seconds)

    def _take_slot(self) -> bool:
        """Take a slot, or stand by until one is free; False if the worker was asked to stop meanwhile."""
        settled, asked_at = False, 0.0
        while not self._stopping.is_set():
            wait = STANDBY_SECONDS
            try:
                if not settled:
                    wait = self._database.settle_seconds()
                    if not asked_at:
                        asked_at = time.monotonic()
                        if wait > 0:
                            self._say_settling()
                    # By our clock too: the server's may have been set back, and then it seems to start in the future.
                    wait = min(wait, SETTLE_SECONDS - (time.monotonic() - asked_at))
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
                    self._stand_by()
                outages.DATABASE.answered("worker")
            except Unavailable as error:
                self._wait_for(error, 0)
            self._stopping.wait(min(wait, STANDBY_SECONDS))
        return False

    def _say_settling(self) -> None:
        what = f"PostgreSQL has just started: for {SETTLE_SECONDS:.0f} s its workers of before take their slots first"
        self._enter("starting", what)
        log.info("settling", seconds_max=SETTLE_SECONDS, note=what)

    def _stand_by(self) -> None:
        silence = self._observer.silence()
        self._ready = not silence
        if silence:
            self._enter("waiting", silence)
        else:
            self._enter("standby", "all slots are taken")

    def _work(self, slot: int, watch: TopicWatch) -> None:
        """Work with one pair of Kafka clients after the other."""
        kafka: KafkaClient | None = None
        try:
            while not self._stopping.is_set():
                if kafka is None:
                    kafka = self._connect(slot)
                    log.info("worker_started", slot=slot)
                try:
                    self._run_cycles(kafka, watch)
                    if self._settings.leave_on_stop:
                        kafka.leave()
                except (Fenced, _WornOut) as reason:
                    log.warning("clients_replaced", cause=type(reason).__name__, detail=str(reason))
                    old, kafka = kafka, None
                    self._ready = False
                    self._enter("recovering", str(reason))
                    self._watchdog.allow("closing", self._budget)
                    _close(old)
                    self._keep_slot()
        except Stop:
            if kafka is not None:
                old, kafka = kafka, None
                self._watchdog.allow("leaving", self._budget)
                old.leave()
                _close(old)
            raise
        finally:
            if kafka is not None:
                self._watchdog.allow("closing", self._settings.grace_seconds)
                kafka.close()

    def _keep_slot(self) -> None:
        """See that the slot is still ours, before new clients take the place of the old ones in the group and at the
        broker of transactions. Raises `SlotLost`: then somebody else has it, and by right.
        """
        self._watchdog.rest()
        while not self._stopping.is_set():
            try:
                self._database.hold_slot()
            except Unavailable as error:
                self._wait_for(error, PAUSE_MAX)
            else:
                return

    def _run_cycles(self, kafka: KafkaClient, watch: TopicWatch) -> None:
        limits = Limits(self._settings.batch_records, self._settings.claim_rows, self._settings.retry_attempts_max)
        cycle = Cycle(self._service.name, kafka, self._database, Handlers(self._service).open, limits)
        in_doubt, wait, pause, reported, adoptions = True, WAIT_MIN, PAUSE_MIN, 0.0, 0
        answered = time.monotonic()
        while not self._stopping.is_set():
            if found := watch.take():
                self._prove(found)
            try:
                if in_doubt:
                    seconds = recovery_seconds(self._settings)
                    self._watchdog.allow("recovery", seconds)
                    self._enter("recovering")
                    with MAIN_LOOP.waiting("the servers, one after the other, to tell where it stands", seconds):
                        cycle.recover()
                    outages.KAFKA.answered("worker")
                    in_doubt = False
                self._watchdog.allow("cycle", self._budget)
                adoptions = self._warn(cycle, adoptions)
                began = time.monotonic()
                report = began - reported >= REPORT_SECONDS
                progress = cycle.run(wait, report=report)
                if report:
                    reported = began
                outages.KAFKA.answered("worker")
                outages.DATABASE.answered("worker")
                wait = min(2 * wait, WAIT_MAX) if progress.idle else WAIT_MIN
                pause = PAUSE_MIN
                answered = time.monotonic()
                if progress.received or progress.said:
                    self._observer.heard()
                self._show(cycle, assigned=kafka.assigned)
                self._note(cycle, progress, answered - began)
            except (Stop, NotLetIn) as doubt:
                in_doubt = True
                self._prove(doubt)
            except Fenced as fenced:
                self._fenced(fenced)
            except RecoveryNeeded as doubt:
                in_doubt = True
                self._count(doubt)
                if isinstance(doubt, Unproven):
                    self._wait(doubt, PAUSE_MAX)
            except Unavailable as error:
                self._wait_for(error, pause)
                pause = min(2 * pause, PAUSE_MAX)
                if isinstance(error, KafkaUnavailable) and time.monotonic() - answered > CLIENTS_SECONDS:
                    # Whatever they remember of brokers that were lost, new ones do not.
                    raise _WornOut(str(error)) from error

    def _wait_for(self, error: Unavailable, seconds: float) -> None:
        """Say that a server does not answer, and wait before it is asked again."""
        outage = outages.KAFKA if isinstance(error, KafkaUnavailable) else outages.DATABASE
        outage.missed("worker", str(error))
        self._wait(error, seconds)

    def _wait(self, why: Exception, seconds: float) -> None:
        self._ready = False
        self._enter("waiting", str(why))
        log.warning("waiting", error=type(why).__name__, detail=str(why)[:DETAIL_MAX])
        self._watchdog.rest()
        self._stopping.wait(seconds * self._random.uniform(0.5, 1.0))

    def _warn(self, cycle: Cycle, adoptions: int) -> int:
        """Tell the cycle at which records processes ended, if it has taken over a share since the last time."""
        if cycle.adoptions != adoptions:
            for source, stuck in self._database.stuck().items():
                cycle.beware(source, stuck.offset, stuck.ends, stuck.error)
        return cycle.adoptions

    def _prove(self, doubt: Stop | NotLetIn) -> None:
        """Raise what there is to stop for when all servers are asked again, by clients of their own and after a pause.
        Return, after another one, if they say nothing of the kind or do not answer: then it is no time to stop.
        """
        if isinstance(doubt, Brake | ContentStuck):
            raise doubt
        self._observer.start()
        log.warning("asking_again", error=type(doubt).__name__, detail=str(doubt))
        self._ready = False
        self._enter("waiting", f"asking again, for it may not be so: {doubt}")
        self._watchdog.rest()
        self._stopping.wait(CONFIRM_SECONDS)
        try:
            self._raise_first(self._stands(doubt))
            detail = "the servers say nothing of the kind"
        except Refused as refused:
            if isinstance(doubt, NotLetIn):
                raise
            detail = str(refused)
        except (Unavailable, NotDone, SQLAlchemyError) as error:
            detail = str(error)
        self._wait(Unproven(f"{doubt} (asked again: {detail})"), PAUSE_MAX)

    def _raise_first(self, found: Sequence[Stop]) -> None:
        if len(found) > 1:
            log.error("more_to_decide", also=[str(stop) for stop in found[1:LISTED_MAX]], count=len(found))
        for stop in found:
            raise stop

    def _fenced(self, fenced: Fenced) -> None:
        """Raise it for new clients; or `TooManyRecoveries` if these do not help."""
        telemetry.RECOVERIES.labels(type(fenced).__name__).inc()
        if _within_minute(self._fences, 1) > FENCED_PER_MINUTE_MAX:
            raise TooManyRecoveries(
                f"fenced more than {FENCED_PER_MINUTE_MAX} times in a minute, although the slot is this worker's own. "
                f"A process that does not use this database may have the same name in group {self._service.name}: the "
                f"last one: {fenced}"
            )
        raise fenced

    def _count(self, doubt: RecoveryNeeded) -> None:
        cause = type(doubt).__name__
        telemetry.RECOVERIES.labels(cause).inc()
        log.warning("recovery", cause=cause, detail=str(doubt)[:DETAIL_MAX])
        if not doubt.counted:
            return
        count = _within_minute(self._recoveries, 1)
        self._causes.append(str(doubt)[:CAUSE_MAX])
        if count > self._settings.recoveries_per_minute_max:
            causes = Counter(list(self._causes)[-count:]).most_common(CAUSES_MAX)
            told = "; ".join(f"{times} times: {cause}" for cause, times in causes)
            raise TooManyRecoveries(
                f"more than {self._settings.recoveries_per_minute_max} recoveries in a minute; {told}; the last one: "
                f"{doubt}"
            )

    def _show(self, cycle: Cycle, *, assigned: bool) -> None:
        """Say whether this worker works. Whoever owns nothing does only if the group has given him nothing to do."""
        silence, owned, parked = self._observer.silence(), cycle.owned, cycle.parked()
        if silence:
            self._ready = False
            self._enter("waiting", silence)
        elif not assigned:
            self._wait_for_share()
        else:
            self._ready = not parked
            self._observer.own(owned.inputs)
            detail = f"{len(owned.inputs)} inputs, {len(owned.lanes)} lanes"
            self._enter("working", f"{detail}, {len(parked)} parked" if parked else detail)
            telemetry.PARKED.set(len(parked))
            telemetry.LANES.set(len(owned.lanes))

    def _wait_for_share(self) -> None:
        self._ready = False
        share, self._share = self._share, None  # it is the same wait as at the last look
        self._enter("waiting", "the group has not given this worker a share yet")
        what = "its group, which waits for members that do not answer"
        self._share = share or MAIN_LOOP.begin(what, max_poll_ms(self._settings) / 1_000)

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
        if progress.idle:
            return
        telemetry.CYCLE.observe(seconds)
        _tell(progress, seconds)
        if progress.failed is None and progress.received and seconds > self._settings.handler_seconds / 2:
            cycle.pace(progress.received)
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
        self._equal_failures.note(progress.handled_types, progress.set_aside)
        if _within_minute(self._set_aside, len(progress.set_aside)) > self._settings.set_aside_per_minute_max:
            last = ": ".join(failures.describe(progress.set_aside[-1].error))[: failures.LOGGED_MAX]
            raise Brake(
                f"more than SET_ASIDE_PER_MINUTE_MAX = {self._settings.set_aside_per_minute_max} records were set "
                f"aside in a minute; the last one for {last}. Mend the handler or the producer, then restart; re-drive "
                f"with `{program(self._service.name)} dead-letters redrive --all`"
            )

    def _stopped(self, stop: Stop) -> None:
        """Stay alive and unready, and repeat what an operator has to decide; until there is nothing to stop for any
        more, or the process is asked to end. After a `Brake` only a restart tells that all is mended.
        """
        self._watchdog.rest()
        pause, told = PROBE_MIN, float("-inf")
        final = isinstance(stop, Brake)
        note = "mend it, then restart this worker" if final else "decide; this worker then goes on by itself"
        while not self._stopping.is_set():
            self._ready = False
            self._enter("stopped", f"{type(stop).__name__}: {stop}")
            if time.monotonic() - told >= REPEAT_SECONDS:
                log.critical("stopped", error=type(stop).__name__, detail=str(stop), note=note)
                told = time.monotonic()
            if self._stopping.wait(pause * self._random.uniform(0.8, 1.0)) or final:
                continue
            pause = min(2 * pause, PROBE_MAX)
            try:
                self._raise_first(self._stands(stop))
                self._check()
            except Stop as still:
                if str(still) != str(stop):
                    stop, pause, told = still, PROBE_MIN, float("-inf")
            except (Unavailable, NotDone, Refused, SQLAlchemyError) as error:
                log.warning("not_seen", detail=str(error)[:DETAIL_MAX])
            else:
                log.info("resumed", error=type(stop).__name__, note="the reason to stop is gone")
                return


class _WornOut(Exception):
    """The Kafka clients get no answer for so long that new ones shall ask."""


def _close(kafka: KafkaClient) -> None:
    """Close clients that are replaced. Closing may never return (librdkafka); they are in nobody's way."""
    closing = threading.Thread(target=kafka.close, name="closing", daemon=True)
    closing.start()
    with MAIN_LOOP.waiting("the old Kafka clients to close", CLOSE_SECONDS):
        closing.join(CLOSE_SECONDS)
    if closing.is_alive() and sum(thread.name == "closing" for thread in threading.enumerate()) > CLOSING_MAX:
        raise TooManyRecoveries("the Kafka clients cannot be closed")


def _tell(progress: Progress, seconds: float) -> None:
    """Tell a batch to whoever debugs."""
    log.debug(
        "batch",
        received=progress.received,
        handled=progress.handled,
        duplicates=progress.duplicates,
        skipped=progress.skipped,
        set_aside=len(progress.set_aside),
        said=progress.said,
        seconds=round(seconds, 4),
    )


def _within_minute(times: deque[float], more: int) -> int:
    """Note `more` occurrences now, and count those of the last minute."""
    now = time.monotonic()
    times.extend([now] * more)
    while times and times[0] < now - MINUTE:
        times.popleft()
    return len(times)
