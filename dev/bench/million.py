"""A million events through one worker: whether its memory and its cost per event stay constant."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import psutil
import psycopg
from confluent_kafka import Consumer, TopicPartition

from dev.bench.inventory import PARTITIONS, BenchError, Inventory, dsn
from dev.bench.orders import fill
from dev.bench.report import Figure
from dev.servers import Echo, Servers
from shared.settings import Settings

SECTION = "million"
SAMPLE_SECONDS = 0.25
SILENCE_SECONDS = 30.0
POINTS = 10
"""Of the curve."""


class Sample(NamedTuple):
    """The worker at one moment."""

    at: float
    events: int
    resident: float
    """MB."""
    cpu: float
    """CPU seconds of the worker and its PostgreSQL process."""


def measure(servers: Servers, report: Echo, *, events: int) -> Iterator[Figure]:
    """Drain `events` events."""
    inventory = Inventory(servers)
    settings = inventory.database("million")
    report(f"million: filling order.events with {events:,} orders ...")
    fill(settings, events)
    report("million: one worker ...")
    samples = _drain(inventory, settings, events)
    for point in range(1, POINTS + 1):
        sample = next(sample for sample in samples if sample.events >= events * point // POINTS)
        yield Figure(SECTION, f"resident memory after {sample.events:,} events", sample.resident, "MB")
    most = max(sample.resident for sample in samples)
    yield Figure(SECTION, "resident memory, the most", most, "MB", at_most=150)
    # The first twentieth warms the caches up; at the very end the worker waits for the last marker.
    first, last = _part(samples, events, 0.05, 0.15), _part(samples, events, 0.89, 0.99)
    for name, (begin, end) in (("first", first), ("last", last)):
        rate = (end.events - begin.events) / (end.at - begin.at)
        yield Figure(SECTION, f"events per second, {name} tenth", rate, "events/s")
    cost = [(end.cpu - begin.cpu) / (end.events - begin.events) for begin, end in (first, last)]
    yield Figure(SECTION, "CPU of worker and PostgreSQL process for an event, first tenth", 1e6 * cost[0], "us")
    yield Figure(SECTION, "CPU for an event, last tenth", 1e6 * cost[1], "us")
    what = f"cost of an event with {events:,} rows of history / without"
    yield Figure(SECTION, what, cost[1] / cost[0], "times", at_most=1.2)


def _part(samples: list[Sample], events: int, begin: float, end: float) -> tuple[Sample, Sample]:
    """Return the last sample before a share of the way, and the first after another."""
    first = [sample for sample in samples if sample.events <= events * begin][-1]
    last = next(sample for sample in samples if sample.events >= events * end)
    return first, last


def _drain(inventory: Inventory, settings: Settings, events: int) -> list[Sample]:
    samples: list[Sample] = []
    offsets = _offsets(settings)
    with psycopg.connect(dsn(settings), autocommit=True) as connection, inventory.worker(settings) as process:
        worker = psutil.Process(process.pid)
        moved = time.monotonic()
        while not samples or samples[-1].events < events:
            time.sleep(SAMPLE_SECONDS)
            row = connection.execute(
                "SELECT coalesce(sum(next_offset), 0)::bigint FROM exactly_once_position"
            ).fetchone()
            assert row is not None
            now = time.monotonic()
            handled = events * row[0] // offsets  # the markers of the transactions have offsets too
            if not samples or handled > samples[-1].events:
                moved = now
            elif now - moved > SILENCE_SECONDS:
                raise BenchError(f"no progress for {SILENCE_SECONDS:.0f} s, after {samples[-1].events:,} events")
            cpu = _cpu(worker) + sum(_cpu(backend) for backend in _backends(connection))
            samples.append(Sample(now, handled, worker.memory_info().rss / 1e6, cpu))
        found = connection.execute("SELECT count(*) FROM exactly_once_inbox").fetchone()
        if found != (events,):
            raise BenchError(f"{found} events were handled, not {events}")
    return samples


def _offsets(settings: Settings) -> int:
    """Count the offsets of order.events."""
    client = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": SECTION})
    ends = [
        client.get_watermark_offsets(TopicPartition("order.events", number), SILENCE_SECONDS)
        for number in range(PARTITIONS)
    ]
    client.close()
    return sum(end for _, end in ends)


def _backends(connection: "psycopg.Connection[tuple[int]]") -> list[psutil.Process]:
    """The server's processes that work for the worker."""
    rows = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'exactly-once%'"
    )
    return [psutil.Process(pid) for (pid,) in rows]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
