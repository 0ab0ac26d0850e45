"""The machine that the figures were measured on."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import confluent_kafka
import psycopg

from dev.servers import Servers
from dev.servers.jars import KAFKA


def describe(servers: Servers) -> dict[str, str]:
    """Name the machine and the versions of the software."""
    with psycopg.connect(servers.postgres.dsn()) as connection:
        found = connection.execute("SHOW server_version").fetchone()
    assert found is not None
    libraries = ("sqlalchemy", "psycopg", "confluent-kafka", "msgspec")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores shared by both "
        f"servers, the workers and the clients",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "servers": f"Kafka {KAFKA.rpartition(':')[2]} (one node), PostgreSQL {found[0]} (fsync on)",
        "client": f"Python {platform.python_version()}, librdkafka {confluent_kafka.libversion()[0]}, "
        + ", ".join(f"{name} {version(name)}" for name in libraries),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
