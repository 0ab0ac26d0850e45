"""The servers that tests share. Whoever needs neither does not wait for them."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from dev.servers import Postgres, Servers, running
from shared.telemetry.logs import log
from shared.telemetry.waits import MAIN_LOOP

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # whoever runs them may have a proxy


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Which tests run one after the other, in one process with its servers: those of a file; and all of tests/faults,
    which play many cells at once by themselves.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "tests/faults" if file.startswith("tests/faults/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Tests of a module share its fixtures, so that it is never split."""
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _no_waits_of_before() -> None:
    """A call that a test lets hang, in a thread of its own, never ends to be waited for."""
    vars(MAIN_LOOP)["_now"] = None


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test may choose a form and a level of the log, for itself; the library's logger keeps what it first met."""
    before = structlog.get_config() if structlog.is_configured() else None
    vars(log).pop("bind", None)
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)
    vars(log).pop("bind", None)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """One Kafka and one PostgreSQL for the whole run. Tests share them: each invents its names, and breaks nothing."""
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL alone, up within two seconds, for what needs no Kafka."""
    with Postgres() as started:
        yield started


@pytest.fixture(scope="module")
def _breakable_pair() -> Iterator[Servers]:
    with running() as started:
        yield started


@pytest.fixture
def breakable_servers(_breakable_pair: Servers) -> Servers:
    """A second pair, for tests that kill and freeze. Both are up when a test begins, whatever the last one did."""
    _breakable_pair.kafka.thaw()
    _breakable_pair.kafka.start()
    _breakable_pair.postgres.start()
    return _breakable_pair
