"""A console on real servers."""

from collections.abc import Iterator

import pytest

from dev.servers import Servers
from tests.integration.console.office import Office
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


@pytest.fixture
def office(tallies: Tallies) -> Iterator[Office]:
    with Office(tallies) as made:
        yield made
