"""The servers that tests share. A test that needs none does not wait for them."""

import os
from collections.abc import Iterator

import pytest
import structlog

from dev.servers import Postgres, Servers, running
from shared.telemetry.logs import log
from shared.telemetry.waits import MAIN_LOOP
from tests.pair import HoldsServers, servers_of_run
from tests.spread import pytest_collection_modifyitems, pytest_xdist_make_scheduler
from tests.times import Times
from tests.until import pytest_addoption, pytest_runtest_setup

__all__ = [  # hooks that pytest finds here
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_runtest_setup",
    "pytest_xdist_make_scheduler",
]

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # whoever runs them may have a proxy


def pytest_configure(config: pytest.Config) -> None:
    """Register what a run has once, in the only process or in the one that hands out tests."""
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Times())
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(HoldsServers())


@pytest.fixture(autouse=True)
def _no_waits_of_before() -> None:
    """Forget earlier waits: a call that a test leaves hanging in a thread never ends."""
    vars(MAIN_LOOP)["_now"] = None


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Restore the log's form and level: the library's logger keeps what it first met."""
    before = structlog.get_config() if structlog.is_configured() else None
    vars(log).pop("bind", None)
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)
    vars(log).pop("bind", None)


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[Servers]:
    """One Kafka and one PostgreSQL for the whole run. Tests share them: each invents its names, and breaks nothing."""
    with servers_of_run(pytestconfig) as started:
        yield started


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL for tests without Kafka: up within two seconds, or the one that all processes share."""
    if hasattr(request.config, "workerinput"):
        yield request.getfixturevalue("servers").postgres
        return
    with Postgres() as started:
        yield started


@pytest.fixture(scope="module")
def _breakable_pair() -> Iterator[Servers]:
    with running() as started:
        yield started


@pytest.fixture
def breakable_servers(_breakable_pair: Servers) -> Servers:
    """A second pair, for tests that kill and freeze. Both are up when a test begins."""
    _breakable_pair.kafka.thaw()
    _breakable_pair.kafka.start()
    _breakable_pair.postgres.start()
    return _breakable_pair
