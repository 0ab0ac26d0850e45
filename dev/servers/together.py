"""Both servers at once, started side by side."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.servers.cluster import Cluster
from dev.servers.kafka import Kafka
from dev.servers.places import leave, run_directory
from dev.servers.postgres import Postgres
from dev.servers.process import Echo, echo


@dataclass(frozen=True)
class Servers:
    """What `running` has started."""

    kafka: Kafka
    postgres: Postgres


@dataclass(frozen=True)
class ClusterServers:
    """What `running_cluster` has started."""

    kafka: Cluster
    postgres: Postgres


@contextmanager
def running(
    *,
    kafka_port: int | None = None,
    postgres_port: int | None = None,
    kafka_settings: Mapping[str, str] | None = None,
    long_lived: bool = False,
    report: Echo = echo,
) -> Iterator[Servers]:
    """Start Kafka and PostgreSQL, on free ports or those given; when the block ends, both are gone with their data.
    `long_lived` is Kafka's.
    """
    with _directory() as directory:
        kafka = Kafka(
            directory / "kafka", port=kafka_port, settings=kafka_settings, long_lived=long_lived, report=report
        )
        postgres = Postgres(directory / "postgres", port=postgres_port, report=report)
        with _up(kafka, postgres, report):
            yield Servers(kafka, postgres)


def attached(bootstrap: str, dsn: str) -> Servers:
    """Return servers that another process has started: they can be used from here, and neither struck nor stopped."""
    return Servers(Kafka.at(bootstrap), Postgres.at(dsn))


@contextmanager
def running_cluster(
    *, kafka_settings: Mapping[str, str] | None = None, report: Echo = echo
) -> Iterator[ClusterServers]:
    """Start three brokers and PostgreSQL; when the block ends, all are gone with their data."""
    with _directory() as directory:
        kafka = Cluster(directory, settings=kafka_settings, report=report)
        postgres = Postgres(directory / "postgres", report=report)
        with _up(kafka, postgres, report):
            yield ClusterServers(kafka, postgres)


@contextmanager
def _directory() -> Iterator[Path]:
    """Give a directory for the data of one run, and remove it with the block, when the servers have left it."""
    directory = run_directory()
    try:
        yield directory
    finally:
        leave(directory)


@contextmanager
def _up(kafka: Kafka | Cluster, postgres: Postgres, report: Echo) -> Iterator[None]:
    begin = time.monotonic()
    report("Starting Kafka and PostgreSQL ...")
    try:
        with ThreadPoolExecutor(2) as pool:
            starts = [pool.submit(kafka.start), pool.submit(postgres.start)]
        for start in starts:
            start.result()
        report(f"Kafka at {kafka.bootstrap} and PostgreSQL are up after {time.monotonic() - begin:.1f} s")
        yield
    finally:
        kafka.stop()
        postgres.stop()
