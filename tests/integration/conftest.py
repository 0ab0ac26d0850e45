"""A service on the shared servers, for tests of single parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from dev.servers import Servers
from dev.servers.locked import LockedKafka
from tests.faults.stage import Stage


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    """A service of the test's own."""
    with Stage(servers, tmp_path) as stage:
        yield stage
        stage.show()


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedKafka]:
    """A broker with TLS, users and an authorizer. Tests share it: each makes its own users."""
    with LockedKafka(tmp_path_factory.mktemp("certificates")) as kafka:
        yield kafka


@pytest.fixture
def engine(stage: Stage) -> Iterator[Engine]:
    """The stage's database, for work in it by hand."""
    engine = create_engine(stage.settings.dsn(stage.name))
    yield engine
    engine.dispose()
