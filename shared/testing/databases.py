"""Databases for tests: one per service and module, with its tables, on the shared server."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, MetaData, create_engine

from ..orm import bulk
from ..postgres.migrations import migrate
from ..settings import Settings
from .servers import Postgres

RUNTIME = "service_runtime"


def settings(postgres: Postgres, suffix: str, **more: object) -> Settings:
    """Return settings for a process of any service, on databases named after it and `suffix`; needs no Kafka."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        kafka_bootstrap_servers="localhost:1",
        **{  # type: ignore[arg-type]
            "database_url": postgres.dsn("{service}" + suffix),
            "api_auth": "off",
            "http_requests_per_second_max": 0,
            **more,
        },
    )


@contextmanager
def migrated(postgres: Postgres, *services: str) -> Iterator[Settings]:
    """Create databases with tables for `services`, owned by another role than the runtime role; drop them when the
    block ends.
    """
    suffix = f"_{uuid.uuid4().hex[:12]}"
    database = "{service}" + suffix
    postgres.create_role(RUNTIME)
    urls = {"database_url": postgres.dsn(database, RUNTIME), "migration_database_url": postgres.dsn(database)}
    found = settings(postgres, suffix, **urls)
    try:
        for service in services:
            postgres.create_database(service + suffix)
            migrate(found, service)
        yield found
    finally:
        for service in services:
            postgres.drop_database(service + suffix)


@contextmanager
def created(postgres: Postgres, name: str, *metadata: MetaData) -> Iterator[Engine]:
    """Create a database with the tables of `metadata`, for tests that flush as a handler does; drop it when the block
    ends.
    """
    database = f"{name}_{uuid.uuid4().hex[:12]}"
    postgres.create_database(database)
    engine = create_engine(postgres.dsn(database))
    bulk.install(engine)
    for tables in metadata:
        tables.create_all(engine)
    try:
        yield engine
    finally:
        engine.dispose()
        postgres.drop_database(database)
