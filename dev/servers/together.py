"""Both servers at once, started side by side."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from dev.servers.kafka import Kafka
from dev.servers.places import leave, run_directory
from dev.servers.postgres import Postgres
from dev.servers.process import Say, say


@dataclass(frozen=True)
class Servers:
    """What `running` has started."""

    kafka: Kafka
    postgres: Postgres


@contextmanager
def running(*, kafka_port: int | None = None, postgres_port: int | None = None, report: Say = say) -> Iterator[Servers]:
    """Start Kafka and PostgreSQL, on free ports or those given; when the block ends, both are gone with their data."""
    directory = run_directory()
    servers = Servers(
        Kafka(directory / "kafka", port=kafka_port, report=report),
        Postgres(directory / "postgres", port=postgres_port, report=report),
    )
    begin = time.monotonic()
    report("Starting Kafka and PostgreSQL ...")
    try:
        with ThreadPoolExecutor(2) as pool:
            starts = [pool.submit(servers.kafka.start), pool.submit(servers.postgres.start)]
        for start in starts:
            start.result()
        report(f"Kafka at {servers.kafka.bootstrap} and PostgreSQL are up after {time.monotonic() - begin:.1f} s")
        yield servers
    finally:
        servers.kafka.stop()
        servers.postgres.stop()
        leave(directory)
