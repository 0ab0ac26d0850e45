"""Plays each scenario of docs/proof.md once, with a fixed seed; `make faults` plays them at will.

Those with three brokers are left to it: each takes minutes.
"""

from pathlib import Path

import pytest

from dev.servers import ClusterServers, Servers
from tests.faults import outcome
from tests.faults.arenas import servers_of
from tests.faults.scenarios import SCENARIOS, Arena, Scenario

pytestmark = pytest.mark.proof

SEED = 4
APART = [scenario for scenario in SCENARIOS if scenario.arena in {Arena.FORGETFUL, Arena.BREAKABLE}]


def play(scenario: Scenario, servers: Servers | ClusterServers, logs: Path) -> list[str]:
    """Play a scenario; return the anomalies at the end."""
    came_of_it = outcome.play(scenario, servers, SEED, logs)
    assert came_of_it.events
    assert came_of_it.faults
    return [*came_of_it.anomalies, *([came_of_it.log] if came_of_it.log else [])]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", [s for s in SCENARIOS if s.arena is Arena.SHARED], ids=lambda scenario: scenario.name)
def test_workers_are_struck(cell: Scenario, problems: list[str]) -> None:
    assert problems == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", APART, ids=lambda scenario: scenario.name)
def test_servers_are_struck(scenario: Scenario, tmp_path: Path) -> None:
    with servers_of(scenario.arena) as servers:
        assert play(scenario, servers, tmp_path) == []
