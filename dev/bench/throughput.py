"""Events per second of one worker, whose handler takes one event or many, beside the loop of the tutorials and beside
the same SQL without Kafka.
"""

import gc
from collections.abc import Iterator

import psycopg

from dev.bench import tutorial
from dev.bench.inventory import PARTITIONS, PROGRAM, Inventory, all_published, container, dsn, wait_until
from dev.bench.memory_kafka import MemoryKafka
from dev.bench.orders import fill, placed
from dev.bench.report import Figure
from dev.servers import Echo, Servers
from services.inventory.handlers import service
from shared.postgres.handlers import Handlers
from shared.postgres.outbox import lane_hash
from shared.protocol.cycle import Cycle, Limits
from shared.protocol.ports import Assignment, Input, Opened, OutboxRow, Record
from shared.settings import Settings

SECTION = "events"
TUNED = {"retry.backoff.ms": 5}


def measure(servers: Servers, report: Echo, *, events: int, naive: int) -> Iterator[Figure]:
    """Measure the three on the same topic and on databases that are equal."""
    inventory = Inventory(servers)
    report(f"events: filling order.events with {events:,} orders ...")
    settings = inventory.database("events")
    fill(settings, events)
    report("events: one worker ...")
    worker = drain(inventory, settings, events)
    report("events: one worker with a batch handler ...")
    inventory.forget_group()
    batched = drain(inventory, inventory.database("batched"), events, "dev.bench.batched")
    report("events: the same SQL without Kafka ...")
    alone = without_kafka(inventory.database("alone"), events)
    report("events: the naive loop ...")
    loops = {}
    for name, tuning in (("naive", {}), ("tuned", TUNED)):
        engine = container(inventory.database(name)).worker_engine()
        loops[name] = tutorial.rate(engine, settings.kafka_bootstrap_servers, name, naive, tuning)
        engine.dispose()
    yield Figure(SECTION, "one inventory worker drains order.events", worker, "events/s")
    yield Figure(SECTION, "the same, with a batch handler", batched, "events/s", at_least=20_000)
    yield Figure(SECTION, "the same SQL in the same batches, without Kafka", alone, "events/s")
    yield Figure(SECTION, "naive loop, one record per transaction", loops["naive"], "events/s")
    yield Figure(SECTION, "naive loop with retry.backoff.ms = 5", loops["tuned"], "events/s")
    yield Figure(SECTION, "worker / naive loop", worker / loops["naive"], "times", at_least=40)
    yield Figure(SECTION, "worker / naive loop, tuned", worker / loops["tuned"], "times")
    yield Figure(SECTION, "worker / SQL alone", worker / alone, "times", at_least=0.6)


def drain(inventory: Inventory, settings: Settings, events: int, program: str = PROGRAM, **more: str) -> float:
    """Let one worker handle everything; return events per second, its start left out."""
    with psycopg.connect(dsn(settings), autocommit=True) as connection, inventory.worker(settings, program, **more):

        def drained() -> bool:
            # A look at the claims is cheap, counting is not.
            return all_published(connection) and handled(connection) == events

        wait_until(drained, f"{events} events handled", seconds=60 + events / 500)
        return handled_per_second(connection)


def handled(connection: "psycopg.Connection[tuple[int]]") -> int:
    """Count the events that took effect."""
    row = connection.execute("SELECT count(*) FROM exactly_once_inbox").fetchone()
    assert row is not None
    return row[0]


def handled_per_second(connection: "psycopg.Connection[tuple[int]]") -> float:
    """Return the rate after the first twentieth, in which caches are warmed, by the times that the inbox keeps."""
    row = connection.execute("""
        SELECT count(*) FILTER (WHERE nth > warm)
               / extract(epoch FROM max(handled_at) - max(handled_at) FILTER (WHERE nth <= warm))
        FROM (
            SELECT handled_at, row_number() OVER (ORDER BY handled_at) AS nth,
                   greatest(count(*) OVER () / 20, 1) AS warm
            FROM exactly_once_inbox
        ) AS timed
    """).fetchone()
    assert row is not None
    return float(row[0])


def without_kafka(settings: Settings, events: int) -> float:
    """Run the production cycle on records from memory; return events per second. Reading the records is not counted."""
    handlers = Handlers(service)
    records = as_records(list(placed(events)))
    opened: dict[tuple[Input, int], Opened | None] = {record[:2]: handlers.open(record) for record in records}
    partitions = range(PARTITIONS)
    share = Assignment(
        frozenset(Input(topic, n) for topic in service.consumed_topics for n in partitions), frozenset(partitions)
    )
    database = container(settings).worker_database()
    database.settle_seconds()
    database.take_slot()
    cycle = Cycle(
        service.name,
        MemoryKafka(records, share),
        database,
        lambda record: opened[record[:2]],
        Limits(settings.batch_records, settings.claim_rows),
    )
    gc.collect()
    gc.freeze()  # a list of all records is not what a worker has in memory
    try:
        cycle.recover()
        while not cycle.run(0, report=False).idle:
            pass
    finally:
        gc.unfreeze()
        database.close()
    with psycopg.connect(dsn(settings)) as connection:
        assert handled(connection) == events
        return handled_per_second(connection)


def as_records(rows: list[OutboxRow]) -> list[Record]:
    """Return the records that `rows` become, partition by partition."""
    ends: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
    records = []
    for row in rows:
        partition = lane_hash(row.key) % PARTITIONS
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_source", b"order"),
            ("ce_id", row.event_id.encode()),
            ("ce_type", f"{row.event_type}.v{row.event_version}".encode()),
            ("ce_time", row.time.encode()),
            ("traceparent", (row.traceparent or "").encode()),
        ]
        source = Input(row.topic, partition)
        records.append(Record(source, ends[partition], row.key.encode(), row.data, headers))
        ends[partition] += 1
    return sorted(records, key=lambda record: record.input)
