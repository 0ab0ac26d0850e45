"""A play: a small service under load, with a reader that follows it all the time, while a scenario strikes.

At the end the load stops, everything heals and drains, and the history is checked.
"""

import random
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from dev.servers import ClusterServers, Servers
from dev.silence import silence
from shared.command import EXIT_AGAIN
from shared.errors import Unavailable
from shared.testing.outside import Published
from shared.testing.waiting import POLL_SECONDS, until
from tests.faults.history import Anomaly, anomalies
from tests.faults.names import Names
from tests.faults.stage import Stage, Worker

TICK_SECONDS = 0.1
"""Between two rounds of load. Four plays at once on two cores leave room for what the faults cost."""

DRAIN_SECONDS = 180.0
"""Everything heals within the timeouts of sessions and transactions, 20 s; the rest is for a busy machine, also at the
start: four plays at once, on servers that have just begun, have answers that take longer than these timeouts.
"""

JOIN_SECONDS = 240.0
"""The load may wait for a server to come back."""


class Play:
    """One service on its stage. All times are of `time.monotonic`."""

    def __init__(
        self, servers: Servers | ClusterServers, logs: Path, seed: int, *, workers: int, settings: dict[str, Any]
    ) -> None:
        self.random = random.Random(seed)
        self.names: Names | None = None
        """The brokers' names as workers resolve them, if any."""
        if isinstance(servers, ClusterServers):
            self.names = Names(logs / f"hosts-{uuid.uuid4().hex[:8]}", servers.kafka.names)
            settings = {
                **settings,
                "names": servers.kafka.named_bootstrap,
                "build": self.names.build(),
            }
        self.stage = Stage(servers, logs, partitions=workers, **settings)
        self.faults: Counter[str] = Counter()
        self.blows: list[float] = []
        self.errors: list[str] = []
        self._workers = workers
        self._closing = threading.Event()
        self._fed_up = threading.Event()
        self._rest = threading.Event()
        self._loading = True
        self._live: list[Published] = []
        self._reader_ended: Exception | None = None
        self._arrivals: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.stage)
            for _ in range(self._workers):
                self.stage.worker()
            self.stage.ask()
            self.stage.request()
            self.stage.until_drained(DRAIN_SECONDS)
            self.stage.until_shared(self._workers)
            threads = [
                threading.Thread(target=self._guarded, args=(act,), daemon=True)
                for act in (self._load, self._read, self._supervise)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                stack.callback(thread.join, JOIN_SECONDS)
            stack.callback(self._closing.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.__exit__(*details)  # type: ignore[arg-type]

    # ---- what a scenario does

    def hit(self, fault: str) -> None:
        """Note that something was just broken."""
        self.faults[fault] += 1
        self.blows.append(time.monotonic())

    def passes(self, seconds: float) -> None:
        """Let time pass until the next blow."""
        time.sleep(seconds)

    def standing(self) -> list[Worker]:
        """Return the workers that run and are not frozen."""
        return [worker for worker in self.stage.workers if worker.running and not worker.frozen]

    def kill(self, worker: Worker) -> None:
        """Kill a worker by SIGKILL, and start it again at once."""
        worker.send(signal.SIGKILL)
        self.hit("SIGKILL")
        worker.again()

    @contextmanager
    def frozen(self, *workers: Worker) -> Iterator[None]:
        """Freeze workers inside the block."""
        for worker in workers:
            worker.send(signal.SIGSTOP)
            self.hit("SIGSTOP")
        try:
            yield
        finally:
            for worker in workers:
                worker.send(signal.SIGCONT)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Feed nothing inside the block."""
        self._rest.set()
        try:
            yield
        finally:
            self._rest.clear()

    def sessions(self) -> list[int]:
        """Return the process ids of the workers' database sessions."""
        found = self.stage.connection.execute("""
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'exactly-once %' AND pid <> pg_backend_pid()
        """)
        return [pid for (pid,) in found]

    # ---- how it ends

    def settle(self) -> None:
        """Stop the load, and wait until everything is at rest."""
        self._fed_up.set()
        until(lambda: not self._loading, "the load has stopped", JOIN_SECONDS)
        self.stage.until(self.stage.drained, "everything is handled and published", DRAIN_SECONDS)
        self.stage.until_read()
        self.stage.until(lambda: not self.stage.open_transactions(), "no transaction is open", DRAIN_SECONDS)
        self.stage.until(self._has_read_all, "the reader has read everything")
        # One that was about to be started again when it was asked to end says so; one that has just been started may
        # not listen yet.
        ended = set(self.stage.dismiss(*[worker for worker in self.stage.workers if worker.running]))
        assert ended <= {0, EXIT_AGAIN, -signal.SIGTERM}, f"workers ended with {ended}"

    def anomalies(self) -> list[Anomaly]:
        """Return the anomalies at the end."""
        return anomalies(self.stage.history(live=list(self._live)))

    @property
    def events(self) -> int:
        """The number of events published."""
        return len(self._live)

    def recoveries(self) -> list[float]:
        """Return for how many seconds a partition was silent after each blow."""
        topic = self.stage.kit.told.topic
        found = [silence(self._arrivals, topic, blow) for blow in self.blows]
        return [seconds for seconds in found if seconds is not None]

    # ---- the threads

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - it is told where the result is checked
            self.errors.append(repr(error))

    def _load(self) -> None:
        try:
            while not self._fed_up.wait(TICK_SECONDS):
                if self._rest.is_set():
                    continue
                self.stage.ask()
                for key in self.stage.keys:
                    self._request(key)
        finally:
            self._loading = False

    def _supervise(self) -> None:
        """Restart workers that ask for it, also while a scenario waits for a server. One that crashed is restarted too,
        as any supervisor does, and counts as a fault.
        """
        while not self._closing.wait(POLL_SECONDS):
            for worker in list(self.stage.workers):
                worker.supervise()
                if worker.supervise(crashed=True):
                    self.hit("crash")

    def _request(self, key: str) -> None:
        number = self.stage.number()
        try:
            with self.stage.requests.transaction() as session:
                self.stage.step(session, key, number)
        except (Unavailable, SQLAlchemyError, psycopg.Error):
            self.stage.in_doubt[key].append(number)
            self._fed_up.wait(TICK_SECONDS)
        else:
            self.stage.requested[key].append(number)

    def _read(self) -> None:
        try:
            for published in self.stage.follow(lambda: not self._closing.is_set()):
                self._arrivals[published.topic, published.partition].append(time.monotonic())
                self._live.append(published)
        except Exception as error:
            self._reader_ended = error
            raise

    def _has_read_all(self) -> bool:
        if self._reader_ended is not None:
            raise AssertionError(f"the reader has ended: {self._reader_ended}") from self._reader_ended
        seen = {published.partition: published.offset for published in list(self._live)}
        return seen == {
            published.partition: published.offset for published in self.stage.read(self.stage.kit.told.topic)
        }
