"""The caller: a process that asks third parties what is due, and writes what they answer.

    1  take   a transaction takes calls that are due, each with a lease (`queue`)
    2  ask    outside of any transaction (`exchange`)
    3  write  a transaction has the answer's effects, its events, and the end of the call (`settling`); answers that
              come while another is being written share the next one (`together`)

A caller that is killed before 3 leaves leases that run out; then any caller asks again, with the same idempotency key.
Any number of callers may run: they share the limits of a destination through its row. Each has its own breaker.

The event loop asks, and has the service make its requests; whatever concerns the database runs on threads.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from ..configuration.program import program
from ..errors import Exit, Misconfigured
from ..postgres.transaction import unavailable
from ..postgres.wakeup import Listener
from ..service import Service
from ..settings import Settings
from ..telemetry import log_context, outages
from ..telemetry.failures import LOGGED_MAX
from ..telemetry.metrics import log
from . import metrics, queue
from .breaker import Breaker
from .declaration import Answer, Destination, Request
from .exchange import Exchange, refuse_wrong_settings
from .outbox import CHANNEL, CallingOutbox
from .queue import Budget, Due, Overtaken, Taken
from .settling import NoAnswer, Outcome, Settling, facts
from .together import Together

THREADS = 5
"""That use the database, each with a connection; one more listens."""

SETTLE_SECONDS = 5.0
"""A lease lasts so much longer than an attempt may. A dead caller's calls wait that long; an answer that cannot be
written within it is asked for again."""

POLL_SECONDS = 0.1
"""Between two looks for what is due: a look in an index, on a session that would be idle."""

LISTENING_SECONDS = 1.0
"""The same while a notification would end the wait: for what is due again, and what nobody was told of."""

AWAKE_SECONDS = 2.0
"""How long after a call looks are frequent: of what is inserted meanwhile nobody may be told."""

LOOK_SECONDS = 3.0
"""Between two looks at how much waits."""

PAUSE_MIN, PAUSE_MAX = 0.1, 2.0
"""Seconds between two attempts while the database is unavailable."""

SILENT_SECONDS = 10.0
"""A database that has not answered for this long makes a caller unready."""

STUCK_SECONDS = 120.0
"""Longer than any work in the database takes, with all its timeouts: a function of the service's hangs."""

SWEPT_MAX = 50
"""Calls beyond their deadline that are taken at once while a destination rests."""

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: restart me."""

T = TypeVar("T")

_THERE = text("SELECT to_regclass('exactly_once_call') IS NOT NULL")


class Lane:
    """What this caller does for one destination."""

    def __init__(self, destination: Destination, exchange: Exchange) -> None:
        self.destination = destination
        self.exchange = exchange
        self.breaker = Breaker(destination.failures_max, destination.rest_seconds)
        self.lease_seconds = destination.seconds + SETTLE_SECONDS
        self.tasks: set[asyncio.Task[None]] = set()
        self.wakes = asyncio.Event()
        self.busy_until = float("-inf")
        """Until when looks are frequent."""
        self.more = False
        """Whether calls were due, at the last look, that there was no room for."""

    def start(self, work: Any) -> None:
        """Start `work`; when it ends, there is room for more."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if self.more:
            self.wakes.set()

    async def rest(self, seconds: float) -> None:
        """Wait until there is news of a call that is due, or room for one, at most `seconds`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wakes.wait(), seconds)
        self.wakes.clear()

    def words(self) -> str:
        """Say what it does."""
        rests = f", left alone for {self.breaker.seconds():.0f} s" if self.breaker.open else ""
        return f"{self.destination.name}: {len(self.tasks)} under way{rests}"


class Caller:
    """One caller process of a service."""

    def __init__(
        self,
        *,
        settings: Settings,
        service: Service,
        engine: Engine,
        outbox: CallingOutbox,
        check: Callable[[], None],
        exchange: Callable[[Destination, Settings], Exchange] = Exchange,
    ) -> None:
        """Raise `Misconfigured` if there is nothing to call, or the settings do not say where."""
        if not outbox.calls:
            raise Misconfigured(
                f"{service.name} makes no calls: set `calls = providers.Object((CapturePayment,))` in its container "
                "(docs/calls.md)"
            )
        self._settings = settings
        self._service = service
        self._engine = engine
        self._listener = Listener(engine, CHANNEL, self._heard)
        self._looking = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._check = check
        self._exchange = exchange
        self._settling = Settling(engine, outbox, service.name, outbox.calls)
        destinations = {kind.destination.name: kind.destination for kind in outbox.calls}
        self._destinations = [destinations[name] for name in sorted(destinations)]
        for destination in self._destinations:
            refuse_wrong_settings(destination, settings)
        self._lanes: list[Lane] = []
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._asked_to_stop = False
        self._answered = time.monotonic()
        self._working: dict[object, float] = {}
        """When each work in the database, or of the service's own code, began; what waits for a thread has not."""

    def ready(self) -> tuple[bool, str]:
        """Return whether this caller can do its work, and what it is doing."""
        silent = time.monotonic() - self._answered
        if self._asked_to_stop:
            return False, "ending"
        if silent > SILENT_SECONDS:
            return False, f"PostgreSQL has not answered for {silent:.0f} s"
        return bool(self._lanes), "; ".join(lane.words() for lane in list(self._lanes)) or "starting"

    def run(self) -> None:
        """Call until SIGTERM or SIGINT. Raises `Misconfigured` or `Exit` if the process must end."""
        self._check()
        with self._engine.begin() as connection:
            if not connection.execute(_THERE).scalar_one():
                raise Misconfigured(
                    f"the database of {self._service.name} has no table of calls: call `r0007.upgrade()` in a `pre` "
                    f"migration (docs/calls.md), then run `{program(self._service.name)} migrate`"
                )
            for destination in self._destinations:
                queue.know(connection, destination.name)
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name="watchdog", daemon=True).start()
        try:
            asyncio.run(self._main())
        except ExceptionGroup as group:  # a defect of the caller; its leases run out
            log.exception("caller_failed")
            raise Exit(f"the caller failed: {group.exceptions[0]}") from group
        finally:
            ended.set()
        log.info("caller_ended")

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._together = Together(self._write_together)
        loop = self._loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="database"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        self._lanes = [Lane(one, self._exchange(one, self._settings)) for one in self._destinations]
        log.info("caller_started", caller=self._name, destinations=[one.name for one in self._destinations])
        self._listener.start()
        try:
            async with asyncio.TaskGroup() as serving:
                for lane in self._lanes:
                    serving.create_task(self._serve(lane))
                serving.create_task(self._look())
        finally:
            self._listener.stop()
            for lane in self._lanes:
                await lane.exchange.close()

    def _heard(self, payload: str | None) -> None:
        """Wake the lanes of the destinations in `payload`, or all. On the listener's thread."""
        names = None if payload is None else payload.split(",")
        for lane in self._lanes:
            if names is None or lane.destination.name in names:
                with suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(lane.wakes.set)

    def _on_signal(self, number: int) -> None:
        if self._asked_to_stop:  # a second one ends it at once; its leases run out
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked_to_stop = True
        self._stop.set()
        for lane in self._lanes:
            lane.wakes.set()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        mark = object()
        self._working[mark] = time.monotonic()
        try:
            yield
        finally:
            del self._working[mark]

    async def _on_thread(self, work: Callable[..., T], *given: Any, **named: Any) -> T:
        def timed() -> T:
            with self._timed():
                return work(*given, **named)

        done = await asyncio.to_thread(timed)
        self._answered = time.monotonic()
        outages.DATABASE.answered("caller")
        return done

    def _missed(self, error: DBAPIError) -> None:
        """Note that the database did not answer. Raises `error` if it is another failure."""
        found = unavailable(error)
        if found is None:
            raise error
        outages.DATABASE.missed("caller", str(found))

    # ---- 1: take

    async def _serve(self, lane: Lane) -> None:
        """Serve one destination until asked to stop, then wait for what is under way."""
        pause = PAUSE_MIN
        while not self._asked_to_stop:
            try:
                moved = await self._round(lane)
            except DBAPIError as error:
                self._missed(error)
                await lane.rest(pause)
                pause = min(2 * pause, PAUSE_MAX)
                continue
            pause = PAUSE_MIN
            if moved:
                lane.busy_until = time.monotonic() + AWAKE_SECONDS
            if not (moved and lane.more):
                sleeps = self._listener.listens() and time.monotonic() > lane.busy_until
                await lane.rest(LISTENING_SECONDS if sleeps else POLL_SECONDS)
        if lane.tasks:
            _, late = await asyncio.wait(lane.tasks, timeout=self._settings.shutdown_grace_seconds)
            for task in late:
                task.cancel()

    async def _round(self, lane: Lane) -> bool:
        """Take what is due and fits; return whether anything was due that is not now."""
        free = lane.destination.concurrency - len(lane.tasks)
        room = lane.breaker.room(free)
        if room > 0:
            taken = await self._on_thread(self._take, lane, room, expired=False)
        elif lane.breaker.open and free > 0:
            taken = await self._on_thread(self._take, lane, min(free, SWEPT_MAX), expired=True)
        else:
            lane.more = True
            return False
        lane.more = taken.more
        at = time.monotonic()
        for due in taken.calls:
            if not due.expired:
                lane.breaker.starts()
            lane.start(self._one(lane, due, at))
        self._show()
        return bool(taken.calls or taken.put_off)

    def _take(self, lane: Lane, most: int, *, expired: bool) -> Taken:
        to = lane.destination
        with self._looking.connect() as connection:
            if not queue.any_due(connection, to.name, expired=expired):
                return queue.NOTHING
        with self._engine.begin() as connection:
            return queue.take(
                connection,
                to.name,
                most=most,
                budget=Budget(to.concurrency, to.per_second),
                seconds=lane.lease_seconds,
                caller=self._name,
                expired=expired,
            )

    # ---- 2 and 3: ask, and write

    async def _one(self, lane: Lane, due: Due, taken_at: float) -> None:
        with log_context.bound(partial(facts, due)):
            try:
                outcome = await self._attempt(lane, due, taken_at)
            except Overtaken as error:
                metrics.ATTEMPTS.labels(due.destination, "overtaken").inc()
                log.warning("call_overtaken", detail=str(error))
            except DBAPIError as error:
                # The lease runs out, and it is asked again.
                metrics.ATTEMPTS.labels(due.destination, "lost").inc()
                log.warning("call_lost", error=type(error).__name__, detail=str(error.orig)[:LOGGED_MAX])
            else:
                for other in self._lanes:
                    if other.destination.name in outcome.due:
                        other.wakes.set()
                metrics.ATTEMPTS.labels(due.destination, outcome.ended).inc()
                write = getattr(log, _LEVELS[outcome.ended])
                write(f"call_{outcome.ended}", attempts=due.attempts, detail=outcome.detail[:LOGGED_MAX])

    async def _attempt(self, lane: Lane, due: Due, taken_at: float) -> Outcome:
        until = taken_at + lane.lease_seconds
        if due.expired:
            return await self._written(until, self._settling.give_up, due, "deadline")
        try:
            request = await self._request(lane, due, taken_at)
        except BaseException:
            lane.breaker.unasked()
            raise
        if isinstance(request, Outcome):
            lane.breaker.unasked()
            return request
        began = time.monotonic()
        try:
            answer = await lane.exchange.ask(due, request)
        except NoAnswer as failure:
            self._fails(lane, failure.why)
            return await self._written(until, self._settling.failed, due, failure)
        except Exception as error:  # noqa: BLE001 - the request cannot be sent; one call must not end the process
            lane.breaker.unasked()
            return await self._written(until, self._settling.stuck, due, error, maybe_done=due.maybe_done)
        except BaseException:  # it is cancelled
            lane.breaker.unasked()
            raise
        finally:
            metrics.SECONDS.labels(due.destination).observe(time.monotonic() - began)
        if answer.status >= 500:
            self._fails(lane, f"status {answer.status}")
        elif lane.breaker.succeeded():
            log.warning("breaker_closed", destination=due.destination)
        if answer.meaning == "done" and (outcome := await self._together.write(due, answer)) is not None:
            return outcome
        return await self._written(until, self._settling.answered, due, answer)

    async def _request(self, lane: Lane, due: Due, taken_at: float) -> Request | Outcome:
        """Return what is sent, or what became of a call for which nothing is."""
        until = taken_at + lane.lease_seconds
        try:
            with self._timed():
                request = self._settling.request_of(due)
        except Exception as error:  # noqa: BLE001 - one call must not end the process
            return await self._written(until, self._settling.stuck, due, error, maybe_done=due.maybe_done)
        if time.monotonic() > taken_at + SETTLE_SECONDS:  # it stood still: the lease may not last for the answer
            await self._written(until, self._settling.release, due)
            return Outcome("again", "this caller stood still; nothing was asked")
        return request

    async def _write_together(self, answers: Sequence[tuple[Due, Answer]]) -> list[Outcome] | None:
        try:
            return await self._on_thread(self._settling.answered_together, answers)
        except DBAPIError as error:
            self._missed(error)
            return None

    def _fails(self, lane: Lane, why: str) -> None:
        if lane.breaker.failed():
            seconds = lane.destination.rest_seconds
            log.warning("breaker_opened", destination=lane.destination.name, seconds=seconds, detail=why[:LOGGED_MAX])

    async def _written(self, until: float, work: Callable[..., T], *given: Any, **named: Any) -> T:
        """Do work in the database; while that is unavailable, try again for as long as the lease lasts."""
        pause = PAUSE_MIN
        while True:
            try:
                return await self._on_thread(work, *given, **named)
            except DBAPIError as error:
                self._missed(error)
                if time.monotonic() + pause > until:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_MAX)

    # ---- what it shows

    async def _look(self) -> None:
        while not self._asked_to_stop:
            try:
                found = await self._on_thread(self._waiting)
            except DBAPIError as error:
                for gauge in (metrics.WAITING, metrics.STUCK, metrics.OLDEST):
                    gauge.forget()
                self._missed(error)
            else:
                names = {(one.name,): 0.0 for one in self._destinations}
                metrics.WAITING.show(names | {(one.destination,): float(one.calls) for one in found})
                metrics.STUCK.show(names | {(one.destination,): float(one.stuck) for one in found})
                metrics.OLDEST.show(names | {(one.destination,): one.oldest_seconds for one in found})
            self._show()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_SECONDS)

    def _waiting(self) -> Any:
        with self._engine.begin() as connection:
            return queue.waiting(connection)

    def _show(self) -> None:
        metrics.UNDER_WAY.show({(lane.destination.name,): float(len(lane.tasks)) for lane in self._lanes})
        metrics.RESTS.show({(lane.destination.name,): float(lane.breaker.open) for lane in self._lanes})

    def _watch(self, ended: threading.Event) -> None:
        """End the process if work hangs. A thread of its own: none of those for the database may be left."""
        while not ended.wait(LOOK_SECONDS):
            since = min(list(self._working.values()), default=time.monotonic())
            if time.monotonic() - since > STUCK_SECONDS:
                log.critical("watchdog", note="work in the database does not end; the process ends, to be restarted")
                os._exit(EXIT_CODE)


_LEVELS = {"done": "debug", "never": "info", "again": "warning", "given_up": "error", "stuck": "error"}
