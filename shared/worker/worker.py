"""A worker: it takes a slot, runs cycles, recovers from doubt, and stops when asked to.

Everything about clocks, threads and signals is here and in the parts assembled here, not in `shared.protocol.cycle`.
"""

import gc
import signal
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

from ..errors import Fenced, NotLetIn, Stop
from ..kafka.client import KafkaClient
from ..postgres.transaction import WorkerDatabase
from ..postgres.wakeup import Wakeup
from ..service import Service
from ..settings import Settings
from ..telemetry.metrics import log
from .backoff import Backoff
from .budgets import cycle_seconds
from .closing import close
from .health import Health
from .housekeeping import Housekeeping
from .last_words import last_words
from .main_loop import MainLoop, WornOut
from .observer import Observer
from .standby import Standby
from .stopping import Stopping
from .stops import Stops
from .topic_watch import TopicWatch
from .watchdog import Watchdog

GARBAGE_MAX = 20_000
"""So many objects are made, and live on, before Python looks for cycles among them (700 by default). A batch of 1,000
events makes twice as many, which live until its commit: each look goes through them in vain.
"""


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
        wakeup: Wakeup,
        housekeeping: Housekeeping,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._database = database
        self._look_at_topics = look_at_topics
        self._connect = connect
        self._wakeup = wakeup
        self._housekeeping = housekeeping
        self._observer = observer
        self._budget = cycle_seconds(settings)
        self._stopping = Stopping()
        self._watchdog = Watchdog(
            last_words=partial(last_words, database, self._budget), off=settings.debug_no_timeouts
        )
        self._health = Health(observer, debugging=settings.debug_no_timeouts)
        self._backoff = Backoff(self._health, self._watchdog, self._stopping)
        self._standby = Standby(database, settings.worker_slots, self._health, self._backoff, self._stopping)
        self._stops = Stops(
            stands=stands,
            check=check,
            observer=observer,
            health=self._health,
            backoff=self._backoff,
            watchdog=self._watchdog,
            stopping=self._stopping,
        )
        self._main_loop = MainLoop(
            settings=settings,
            service=service,
            database=database,
            wakeup=wakeup,
            observer=observer,
            health=self._health,
            backoff=self._backoff,
            stops=self._stops,
            watchdog=self._watchdog,
            stopping=self._stopping,
        )

    def ready(self) -> tuple[bool, str]:
        """Return whether this worker works or stands by, and what it is doing."""
        return self._health.told()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises `Misconfigured` or `Exit` if the process must end."""
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
                    # Release the slot too: an operator decides while no worker holds one.
                    self._database.close()
                    self._observer.start()
                    self._stops.wait(stop)
                live = self._live
        finally:
            self._health.enter("ending", ready=False)
            self._watchdog.allow("closing", self._settings.shutdown_grace_seconds)
            self._wakeup.stop()
            self._housekeeping.stop()
            self._observer.stop()
            self._database.close()
        log.info("worker_ended")

    def _begin(self) -> None:
        gc.freeze()  # what a start has made stays
        gc.set_threshold(GARBAGE_MAX)
        self._stops.check()
        self._observer.start()
        self._live()

    def _live(self) -> None:
        """Take a slot, and work until the process is asked to stop. Raises `Stop` only if it is proven."""
        if not self._standby.take_slot():
            return
        slot = self._database.slot
        assert slot is not None
        self._wakeup.start()
        self._housekeeping.start()
        watch = TopicWatch(self._look_at_topics)
        try:
            self._work(slot, watch)
        finally:
            watch.stop()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stopping.set()
        self._watchdog.allow("stopping", self._settings.shutdown_grace_seconds)

    def _work(self, slot: int, watch: TopicWatch) -> None:
        """Work with one pair of Kafka clients after another."""
        kafka: KafkaClient | None = None
        try:
            while not self._stopping.is_set():
                if kafka is None:
                    kafka = self._connect(slot)
                    log.info("worker_started", slot=slot)
                try:
                    self._main_loop.run(kafka, watch)
                    if self._settings.leave_group_on_shutdown:
                        kafka.leave()
                except (Fenced, WornOut) as reason:
                    log.warning("clients_replaced", cause=type(reason).__name__, detail=str(reason))
                    old, kafka = kafka, None
                    self._health.enter("recovering", str(reason), ready=False)
                    self._watchdog.allow("closing", self._budget)
                    close(old)
                    self._watchdog.rest()
                    self._standby.keep_slot()
        except Stop:
            if kafka is not None:
                old, kafka = kafka, None
                self._watchdog.allow("leaving", self._budget)
                old.leave()
                close(old)
            raise
        finally:
            if kafka is not None:
                self._watchdog.allow("closing", self._settings.shutdown_grace_seconds)
                kafka.close()
