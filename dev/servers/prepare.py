"""Databases, topics and tables for the services of this repository, by the commands that an operator would use."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module, invalidate_caches
from pathlib import Path

import psycopg
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dev.servers.postgres import create_database
from dev.servers.process import Echo, ServerError, echo
from shared.postgres.session_settings import forget_libpq_variables
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS_MAX = 120.0  # migrations of an empty database take about a second


def service_names() -> list[str]:
    """Name the services: the folders of `services/` that can be run."""
    return sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))


def prepare(bootstrap: str, database_url: str, services: Iterable[str] | None = None, report: Echo = echo) -> None:
    """Make the database of every service, then its topics and its tables. What is there already, stays.

    In `database_url`, `{service}` stands for the name of each service, as in the services' own setting.
    """
    forget_libpq_variables()
    names = service_names() if services is None else list(services)
    for name in names:
        with suppress(psycopg.errors.DuplicateDatabase):
            create_database(database_url.replace("{service}", "postgres"), name)
    if not names:
        return
    _create_topics_of_others(bootstrap, names)
    # Side by side: each is mostly the start of an interpreter. A service's own commands keep their order.
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: _prepare(name, bootstrap, database_url.replace("{service}", name)), names))
    report(f"Topics and tables are in place for {', '.join(names)}")


def _create_topics_of_others(bootstrap: str, names: Sequence[str]) -> None:
    """Create the topics that are consumed here but published by another team, which would create them."""
    invalidate_caches()  # a service may have been made a moment ago
    declared = [import_module(f"services.{name}.handlers").service for name in service_names()]
    published = {topic for service in declared for topic in service.published_topics}
    consumed = {topic for service in declared if service.name in names for topic in service.consumed_topics} - published
    if not consumed:
        return
    client = AdminClient({"bootstrap.servers": bootstrap})
    partitions = Settings.model_fields["partitions"].default
    new = [NewTopic(topic, num_partitions=partitions, replication_factor=1) for topic in sorted(consumed)]
    for topic, future in client.create_topics(new).items():
        try:
            future.result(COMMAND_SECONDS_MAX)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ServerError(f"topic {topic} cannot be created: {error.args[0].str()}") from error


def _prepare(name: str, bootstrap: str, dsn: str) -> None:
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap, "DATABASE_URL": dsn}
    for command in ("topics --consumed", "migrate"):
        words = [sys.executable, "-m", f"services.{name}", *command.split()]
        done = subprocess.run(
            words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )
        if done.returncode:
            raise ServerError(f"`python -m services.{name} {command}` failed:\n{done.stdout}{done.stderr}")
