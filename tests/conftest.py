"""The servers that tests share. Whoever needs neither does not wait for them."""

import os
from collections.abc import Iterator

import pytest

from dev.servers import Postgres, Servers, running

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # whoever runs them may have a proxy


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
