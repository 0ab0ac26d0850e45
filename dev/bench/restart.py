"""The silence of a partition whose worker is killed and restarted at once."""

import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from confluent_kafka import Message, Producer

from dev import processes
from dev.bench.inventory import PARTITIONS, STOP_SECONDS, BenchError, Inventory, start_worker, wait_until
from dev.bench.listener import Listener
from dev.bench.orders import placed
from dev.bench.report import Figure
from dev.servers import Echo, Servers
from dev.servers.prepare import ROOT
from dev.servers.process import environment
from services.inventory.handlers import service
from shared.kafka.producer import IN_ORDER
from shared.settings import Settings

SECTION = "restart"
RATE = 200
"""Orders per second, over all partitions."""
IMPORTS = 5
MODULE = f"services.{service.name}.container, shared.command"


class Arrivals:
    """The last record of each partition: when the producer wrote it, and when it could be read."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, float]] = {}
        self._first_after: dict[int, float] = {}
        self._since = 0.0

    def consume(self, message: Message, at: float) -> None:
        # What the killed worker had committed may be read a moment after the kill; its timestamp is before it.
        written = message.timestamp()[1] / 1_000
        if written > self._since:
            self._first_after.setdefault(message.partition() or 0, at)

    def reset(self) -> None:
        """Forget everything; only records written from now on count."""
        self._since = time.time()
        self._first_after = {}

    def all_spoke(self) -> bool:
        return len(self._first_after) == PARTITIONS

    def last(self) -> float:
        """When the last partition had its first record since the reset."""
        return max(self._first_after.values())


def measure(servers: Servers, report: Echo, *, kills: int) -> Iterator[Figure]:
    """Kill the one worker of the inventory service `kills` times while orders come in."""
    inventory = Inventory(servers)
    settings = inventory.database("restart")
    report(f"restart: {kills} kills ...")
    arrivals = Arrivals()
    bootstrap = settings.kafka_bootstrap_servers
    with (
        tempfile.TemporaryDirectory(prefix="exactly-once-bench-") as directory,
        _orders(settings),
        Listener(bootstrap, "inventory.events", arrivals.consume),
    ):
        silences = sorted(_kill(settings, Path(directory), arrivals, kills, workers=1))
        with_standby = sorted(_kill(settings, Path(directory), arrivals, kills, workers=2))
    imports = [_python(f"import {MODULE}") for _ in range(IMPORTS)]
    empty = [_python("pass") for _ in range(IMPORTS)]
    what = "SIGKILL until every partition has a new committed record"
    yield Figure(SECTION, f"{what}, median", statistics.median(silences), "s", at_most=1.0)
    yield Figure(SECTION, f"{what}, longest of {kills}", silences[-1], "s")
    what = "the same, with a standby"
    yield Figure(SECTION, f"{what}, median", statistics.median(with_standby), "s", at_most=0.5)
    yield Figure(SECTION, f"{what}, longest of {kills}", with_standby[-1], "s")
    yield Figure(SECTION, "imports of a worker", statistics.median(imports) - statistics.median(empty), "s")
    yield Figure(SECTION, "an interpreter that imports nothing", statistics.median(empty), "s")


def _kill(settings: Settings, logs: Path, arrivals: Arrivals, kills: int, *, workers: int) -> Iterator[float]:
    """Kill the worker that has the one slot, again and again; each is started again at once. Of two `workers` the
    other one stands by.
    """
    chance = random.Random(1)
    numbers = count()
    running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start() -> None:
        log = logs / f"worker-{workers}-{next(numbers)}.log"
        running.append((start_worker(settings, log, WORKER_SLOTS="1"), log))

    def ready(log: Path) -> bool:
        return "standby" in log.read_text()

    try:
        start()
        for _ in range(kills):
            arrivals.reset()
            wait_until(arrivals.all_spoke, "every partition has a new record")
            if len(running) < workers:
                start()
            for _, log in running[1:]:
                wait_until(partial(ready, log), "the other worker stands by")
            time.sleep(chance.uniform(0.2, 0.7))  # at any moment of a cycle
            arrivals.reset()
            at = time.monotonic()
            process, _ = running.pop(0)
            process.kill()
            process.wait()
            start()
            wait_until(arrivals.all_spoke, "every partition has a new record")
            yield arrivals.last() - at
    except BenchError as error:
        for _, log in running:
            error.add_note(f"The log of a worker ends:\n{log.read_text()[-3_000:]}")
        raise
    finally:
        processes.end([process for process, _ in running], STOP_SECONDS)


@contextmanager
def _orders(settings: Settings) -> Iterator[None]:
    """Publish orders at a steady rate while the block lasts."""
    stopping = threading.Event()

    def run() -> None:
        bootstrap = settings.kafka_bootstrap_servers
        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                **IN_ORDER,
                "partitioner": "consistent",
                "linger.ms": 1,
            }
        )
        while not stopping.is_set():
            for row in placed(RATE):
                headers = {"ce_specversion": "1.0", "ce_source": "order", "ce_id": row.event_id}
                headers["ce_type"] = f"{row.event_type}.v{row.event_version}"
                producer.produce(row.topic, row.data, row.key, headers=list(headers.items()))
                producer.poll(0)
                if stopping.wait(1 / RATE):
                    break
        producer.flush(STOP_SECONDS)

    thread = threading.Thread(target=run, name="orders", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(STOP_SECONDS)


def _python(code: str) -> float:
    """Run a fresh interpreter; return the seconds that it takes."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment())
    return time.monotonic() - began
