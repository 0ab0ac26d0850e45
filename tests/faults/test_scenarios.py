"""The scenarios of docs/proof.md once, with a fixed seed; `make faults` plays them as often as one likes.

Those with three brokers are left to it: each takes minutes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import ClusterServers, Servers
from tests.faults import outcome
from tests.faults.arenas import servers_of
from tests.faults.scenarios import SCENARIOS, Arena, Scenario

SEED = 4
APART = [(scenario.arena, scenario) for scenario in SCENARIOS if scenario.arena in {Arena.FORGETFUL, Arena.BREAKABLE}]


def play(scenario: Scenario, servers: Servers | ClusterServers, logs: Path) -> list[str]:
    """Play a scenario, and return what is wrong in the end."""
    came_of_it = outcome.play(scenario, servers, SEED, logs)
    assert came_of_it.events
    assert came_of_it.faults
    return [*came_of_it.anomalies, *([came_of_it.log] if came_of_it.log else [])]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", [s for s in SCENARIOS if s.arena is Arena.SHARED], ids=lambda s: s.name)
def test_workers_are_struck(cell: Scenario, problems: list[str]) -> None:
    assert problems == []


@pytest.fixture(scope="module")
def arena(request: pytest.FixtureRequest) -> Iterator[Servers | ClusterServers]:
    """Servers that may be broken; the next scenario of the same arena finds them whole."""
    with servers_of(request.param) as servers:
        yield servers


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("arena", "scenario"), APART, indirect=["arena"], ids=lambda value: getattr(value, "name", ""))
def test_servers_are_struck(arena: Servers | ClusterServers, scenario: Scenario, tmp_path: Path) -> None:
    assert play(scenario, arena, tmp_path) == []
