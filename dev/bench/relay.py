"""Rows per second from a full outbox to the topic, beside a producer without a database."""

import time
from collections.abc import Iterator, Sequence

import psycopg
from confluent_kafka import Producer
from sqlalchemy import text

from dev.bench.inventory import PARTITIONS, SILENCE_SECONDS, Inventory, all_published, container, dsn, wait_until
from dev.bench.orders import placed
from dev.bench.report import Figure
from dev.servers import Echo, Servers
from services.inventory.events import StockReserved
from services.inventory.handlers import service
from shared.events import encoded
from shared.postgres.outbox import PendingEvent
from shared.protocol.ports import OutboxRow
from shared.session import Session
from shared.settings import Settings

SECTION = "relay"
CLAIMED = text(
    "SELECT topic, key, event_id, event_type, event_version, '', data, traceparent FROM exactly_once_outbox ORDER BY id"
)


def measure(servers: Servers, report: Echo, *, rows: int) -> Iterator[Figure]:
    """Measure both with the same events."""
    inventory = Inventory(servers)
    settings = inventory.database("relay")
    report(f"relay: one worker, an outbox of {rows:,} rows ...")
    published, relayed = relay(inventory, settings, rows)
    report("relay: a raw transactional producer ...")
    raw = produce(settings, published)
    yield Figure(SECTION, "one worker publishes a full outbox", relayed, "rows/s")
    yield Figure(SECTION, "raw producer, same events, transactions of the same size", raw, "rows/s")
    yield Figure(SECTION, "worker / raw producer", relayed / raw, "times", at_least=0.35)


def relay(inventory: Inventory, settings: Settings, rows: int) -> tuple[list[OutboxRow], float]:
    """Commit `rows` rows at once while a worker is idle; return them, and rows per second until Kafka has the last."""
    parts = container(settings)
    outbox = parts.outbox()
    with (
        psycopg.connect(dsn(settings), autocommit=True) as connection,
        inventory.worker(settings),
        Session(parts.worker_engine()) as session,
    ):
        # The transaction stays open until the worker is ready.
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        for order in placed(rows):
            event = StockReserved(order_id=order.key, account="account-1", amount=12_345, currency="EUR")
            event_id = f"{service.name}:{order.event_id}"
            outbox.keep(
                session, PendingEvent(event, encoded(event), event.topic, event.key, event_id, order.traceparent)
            )
        outbox.write(session)
        waiting = [OutboxRow._make(row) for row in session.connection().execute(CLAIMED)]
        ready = "SELECT count(*) = 8 FROM exactly_once_position"  # of two topics: the worker has resumed what it owns
        wait_until(lambda: connection.execute(ready).fetchone() == (True,), "the worker is ready")
        session.commit()
        began = time.monotonic()
        wait_until(lambda: all_published(connection), "all rows published", seconds=60 + rows / 1_000)
        return waiting, rows / (time.monotonic() - began)


def produce(settings: Settings, rows: Sequence[OutboxRow]) -> float:
    """Produce `rows` as fast as the client can, in transactions as large as the worker's; return rows per second."""
    batch = PARTITIONS * settings.claim_rows
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "transactional.id": "raw",
            "partitioner": "consistent",
            "retry.backoff.ms": 5,
            "linger.ms": 0,
        }
    )
    producer.init_transactions(SILENCE_SECONDS)
    ready = [(row.topic, row.data, row.key.encode(), _headers(row)) for row in rows]
    began = time.monotonic()
    for begin in range(0, len(ready), batch):
        producer.begin_transaction()
        for topic, data, key, headers in ready[begin : begin + batch]:
            producer.produce(topic, data, key, headers=headers)
        producer.commit_transaction(SILENCE_SECONDS)
    return len(rows) / (time.monotonic() - began)


def _headers(row: OutboxRow) -> list[tuple[str, str | bytes | None]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_source", b"inventory"),
        ("content-type", b"application/json"),
        ("ce_id", row.event_id.encode()),
        ("ce_type", f"{row.event_type}.v{row.event_version}".encode()),
        ("ce_time", b"2026-01-01T00:00:00.000000Z"),
        ("traceparent", (row.traceparent or "").encode()),
    ]
