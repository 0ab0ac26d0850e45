"""Fixtures of the tests of services' handlers."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase

from dev.servers import Postgres
from shared.orm import bulk
from shared.postgres import tables
from shared.service import Service
from shared.testing import MakeTrial, Trial


@pytest.fixture(scope="session")
def _engine_of(postgres: Postgres) -> Iterator[Callable[[Service, type[DeclarativeBase]], Engine]]:
    """Returns the engine of a database with a service's tables, made once."""
    made: dict[str, Engine] = {}

    def engine_of(service: Service, base: type[DeclarativeBase]) -> Engine:
        if service.name not in made:
            name = f"trial_{service.name}_{uuid.uuid4().hex[:12]}"
            postgres.create_database(name)
            engine = made[service.name] = create_engine(postgres.dsn(name))
            bulk.install(engine)
            with engine.begin() as connection:
                tables.metadata.create_all(connection)
                base.metadata.create_all(connection)
                connection.execute(text("INSERT INTO exactly_once_lane (lane) VALUES (0)"))
        return made[service.name]

    yield engine_of
    for engine in made.values():
        engine.dispose()


@pytest.fixture
def trial(_engine_of: Callable[[Service, type[DeclarativeBase]], Engine]) -> Iterator[MakeTrial]:
    """Returns a trial of a service: `trial(service, Base)`."""
    with ExitStack() as stack:

        def make(service: Service, base: type[DeclarativeBase]) -> Trial:
            connection = stack.enter_context(_engine_of(service, base).connect())
            transaction = connection.begin()
            # A batch that failed has rolled back by itself.
            stack.callback(lambda: transaction.rollback() if transaction.is_active else None)
            return Trial(connection, service, base)

        yield make
