"""The main loop of a worker: it runs cycle after cycle and reacts to each error."""

import time

from ..errors import Fenced, KafkaUnavailable, NotLetIn, NotReleased, RecoveryNeeded, Stop, Unavailable, Unproven
from ..kafka.client import KafkaClient
from ..kafka.consumer import max_poll_ms
from ..postgres.handlers import Handlers
from ..postgres.transaction import WorkerDatabase
from ..postgres.wakeup import Wakeup
from ..protocol.cycle import Cycle, Limits, Progress
from ..protocol.parking import Bounds
from ..service import Service
from ..settings import Settings
from ..telemetry import outages
from ..telemetry.waits import MAIN_LOOP
from .backoff import Backoff
from .budgets import CLIENTS_SECONDS, calm_seconds, cycle_seconds, recovery_seconds
from .health import Health
from .observer import Observer
from .pace import Pace
from .recoveries import Recoveries
from .reporting import Reporting
from .retries import ParkedRetries, Retries
from .stopping import Stopping
from .stops import Stops
from .topic_watch import TopicWatch
from .turns import Turns
from .waking import WakingKafka
from .watchdog import Watchdog


class WornOut(Exception):
    """The Kafka clients got no answer for so long that they must be replaced."""


def limits_of(settings: Settings) -> Limits:
    """Return what one cycle takes on, as `settings` say."""
    parked = Bounds(
        settings.parked_records_max,
        settings.parked_bytes_max,
        settings.parked_keys_max,
        settings.parked_hours_max * 3_600,
    )
    return Limits(
        settings.batch_records,
        settings.claim_rows,
        settings.retry_attempts_max,
        parked if settings.parked_records_max else None,
    )


class MainLoop:
    """Runs cycles with one pair of Kafka clients after another; its counts outlive them."""

    def __init__(
        self,
        *,
        settings: Settings,
        service: Service,
        database: WorkerDatabase,
        wakeup: Wakeup,
        observer: Observer,
        health: Health,
        backoff: Backoff,
        stops: Stops,
        watchdog: Watchdog,
        stopping: Stopping,
    ) -> None:
        self._settings = settings
        self._service = service
        self._database = database
        self._wakeup = wakeup
        self._observer = observer
        self._health = health
        self._backoff = backoff
        self._stops = stops
        self._watchdog = watchdog
        self._stopping = stopping
        self._budget = cycle_seconds(settings)
        self._recoveries = Recoveries(settings.recoveries_per_minute_max, service.name)
        self._retries = Retries(settings.retry_seconds_max, calm_seconds(settings))
        self._parked = ParkedRetries()
        self._reporting = Reporting(settings, service.name)
        self._pace = Pace(settings.batch_wait_ms_max / 1_000, settings.batch_records)

    def run(self, kafka: KafkaClient, watch: TopicWatch) -> None:
        """Run cycles with `kafka` until the process is asked to stop. Raises `Stop` only if it is proven; `Fenced` and
        `WornOut` if new clients must take over; `Exit` and `Misconfigured` if the process must end.
        """
        limits = limits_of(self._settings)
        waking = WakingKafka(kafka, self._wakeup, self._stopping)
        handlers = Handlers(self._service)
        cycle = Cycle(self._service.name, waking, self._database, handlers.open, limits, holds=handlers.holds)
        turns, in_doubt, resumes = Turns(), True, 0
        answered = time.monotonic()
        self._backoff.succeeded()
        while not self._stopping.is_set():
            if found := watch.take():
                self._stops.prove(found)
            try:
                if in_doubt:
                    self._recover(cycle)
                    in_doubt = False
                self._watchdog.allow("cycle", self._budget)
                resumes = self._warn(cycle, resumes)
                cycle.pause(self._observer.paused.topics)
                self._wakeup.own(cycle.owned.lanes)
                began = time.monotonic()
                turn = turns.begin(began, self._database.due_seconds(began))
                seconds = self._parked.at_most(cycle, turn.seconds)
                progress = cycle.run(seconds, report=turn.report)
                answered = time.monotonic()
                wakes = self._wakes(cycle, assigned=kafka.assigned)
                turns.end(turn, answered, idle=progress.idle, wakes=wakes, knows=_knows(progress, waking))
                self._answered()
                self._after(cycle, progress, answered - began, assigned=kafka.assigned, unreadable=kafka.unreadable)
                if self._try_parked(cycle, count=turn.report) or progress.published >= self._settings.claim_rows:
                    turns.publish_now()
                self._rest(progress, answered - began, waking)
            except (Stop, NotLetIn) as doubt:
                in_doubt = True
                self._stops.prove(doubt)
            except NotReleased as held:
                self._backoff.wait(held)
                raise
            except Fenced as fenced:
                self._recoveries.fenced(fenced)
                raise
            except RecoveryNeeded as doubt:
                in_doubt = True
                self._recoveries.count(doubt)
                if isinstance(doubt, Unproven):
                    self._backoff.wait(doubt)
            except Unavailable as error:
                self._backoff.failed(error)
                if isinstance(error, KafkaUnavailable) and time.monotonic() - answered > CLIENTS_SECONDS:
                    # The clients may remember lost brokers; new ones do not.
                    raise WornOut(str(error)) from error

    def _answered(self) -> None:
        """Note that both servers have answered."""
        outages.KAFKA.answered("worker")
        outages.DATABASE.answered("worker")
        self._backoff.succeeded()

    def _try_parked(self, cycle: Cycle, *, count: bool) -> bool:
        """Try parked records that are due; return whether any was. What fails there fails nothing else."""
        if not self._parked.are_due(cycle, count=count):
            return False
        self._watchdog.allow("cycle", self._budget)
        began = time.monotonic()
        progress = cycle.retry(count=count)
        self._parked.tried(cycle, idle=progress.idle)
        if not progress.idle:
            self._reporting.report(progress, time.monotonic() - began)
        return not progress.idle

    def _wakes(self, cycle: Cycle, *, assigned: bool) -> bool:
        """Whether all that may become due soon would end a wait: a parked input would not, nor a share to come."""
        return self._wakeup.listens() and assigned and not cycle.parked()

    def _rest(self, progress: Progress, seconds: float, waking: WakingKafka) -> None:
        """Let the next batch grow, if cycles such as this one, which took `seconds`, keep the worker busy."""
        more = waking.had_more or progress.failed is not None
        records = max(progress.received, progress.published)
        if pause := self._pace.after(seconds, waking.waited, records, more=more):
            time.sleep(pause)

    def _recover(self, cycle: Cycle) -> None:
        seconds = recovery_seconds(self._settings)
        self._watchdog.allow("recovery", seconds)
        self._health.enter("recovering")
        with MAIN_LOOP.waiting("the servers, one after the other, to tell where it stands", seconds):
            cycle.recover()
        outages.KAFKA.answered("worker")

    def _warn(self, cycle: Cycle, resumes: int) -> int:
        """If the cycle took over a share since the last call, tell it at which records processes ended, and read what
        is paused.
        """
        if cycle.resumes != resumes:
            for source, attempt in self._database.attempts().items():
                cycle.suspect(source, attempt)
            for source, stuck in self._database.stuck().items():
                cycle.beware(source, stuck.offset, stuck.ends, stuck.error)
            asked = time.monotonic()
            self._observer.paused.note(self._database.paused(), asked)
        return cycle.resumes

    def _after(self, cycle: Cycle, progress: Progress, seconds: float, *, assigned: bool, unreadable: str = "") -> None:
        """Report a cycle that took `seconds`, and act on its outcome. Raises `TooManyDeadLetters`."""
        if progress.received or progress.published:
            self._observer.answered()
        self._health.working(
            cycle,
            assigned=assigned,
            share_seconds=max_poll_ms(self._settings) / 1_000,
            unreadable=unreadable,
        )
        self._retries.release(cycle)
        if progress.idle:
            return
        if progress.failed is None and progress.received and seconds > self._settings.handler_seconds / 2:
            cycle.pace(progress.received)
        self._reporting.report(progress, seconds)


def _knows(progress: Progress, waking: WakingKafka) -> bool:
    """Whether hardly a row can wait that nobody told of.

    Such rows hide behind others, which were told of or found; or behind the notification of another lane at the same
    moment, since one transaction notifies at a time.
    """
    return (progress.idle or progress.received > 0) and not waking.woken
