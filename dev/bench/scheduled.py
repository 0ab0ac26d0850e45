"""How late scheduled events are, while a million others wait."""

import time
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import msgspec
import psycopg
from confluent_kafka import Message

from dev.bench.inventory import PARTITIONS, Inventory, dsn, wait_until
from dev.bench.listener import Listener, header
from dev.bench.report import Figure
from dev.servers import Echo, Servers
from services.inventory.events import StockSold

SECTION = "scheduled"
RATE = 1_000
"""Events that become due in a second."""
SECONDS = 20
LEAD_SECONDS = 5.0
"""From the worker's start until the first is due."""
WAIT_SECONDS = 365 * 86_400.0
"""Until those are due that wait."""

_COPY = """
    COPY exactly_once_schedule (name, due, lane, hash, topic, key, event_id, event_type, event_version, data)
    FROM STDIN
"""


def measure(servers: Servers, report: Echo, *, waiting: int) -> Iterator[Figure]:
    """Let one worker publish what becomes due. The database decides by its clock, which is that of this machine."""
    inventory = Inventory(servers)
    settings = inventory.database("scheduled")
    arrived: dict[str, float] = {}

    def consume(message: Message, at: float) -> None:
        arrived[header(message, "ce_id").decode()] = time.time() - time.monotonic() + at

    with (
        psycopg.connect(dsn(settings), autocommit=True) as connection,
        Listener(settings.kafka_bootstrap_servers, "inventory.events", consume),
        inventory.worker(settings),
    ):
        report(f"scheduled: {waiting:,} events that wait ...")
        _schedule(
            connection, dict.fromkeys((f"waits-{number}" for number in range(waiting)), time.time() + WAIT_SECONDS)
        )
        connection.execute("VACUUM ANALYZE exactly_once_schedule")
        connection.execute("CHECKPOINT")  # they were written long ago
        report(f"scheduled: {RATE:,} events a second for {SECONDS} s ...")
        first = time.time() + LEAD_SECONDS
        due = {f"due-{number}": first + number / RATE for number in range(RATE * SECONDS)}
        _schedule(connection, due)
        wait_until(lambda: len(arrived) == len(due), f"{len(due)} events are published", 3 * SECONDS + LEAD_SECONDS)
    late = sorted(1_000 * (arrived[name] - moment) for name, moment in due.items())
    what = f"{RATE:,} due a second, {waiting:,} wait: from the moment until a reader has the event"
    yield Figure(SECTION, f"{what}, p50", late[len(late) // 2], "ms")
    yield Figure(SECTION, f"{what}, p99", late[len(late) * 99 // 100], "ms", at_most=100)


def _schedule(connection: "psycopg.Connection[tuple[object, ...]]", due: Mapping[str, float]) -> None:
    """Schedule an event for each name, at a time of `time.time`, as the library does; the name is its id as well."""
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for name, moment in due.items():
            event = StockSold(order_id=name)
            spread = zlib.crc32(event.key.encode())
            at = datetime.fromtimestamp(moment, UTC)
            data = msgspec.json.encode(event)
            copy.write_row(
                (name, at, spread % PARTITIONS, spread, event.topic, event.key, name, "StockSold", event.version, data)
            )
