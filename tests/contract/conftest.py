"""Each test of the contract runs against both worlds."""

from collections.abc import Iterator

import pytest

from dev.servers import Servers
from tests.contract.real import RealWorld, database
from tests.contract.simulated import SimulatedWorld
from tests.contract.world import World


@pytest.fixture(scope="module")
def _prepared(servers: Servers) -> Iterator[Servers]:
    with database(servers):
        yield servers


@pytest.fixture(params=["simulated", "real"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One service, in the simulation or on the shared servers."""
    if request.param == "simulated":
        yield SimulatedWorld()
        return
    with RealWorld(request.getfixturevalue("_prepared")) as real:
        yield real
