"""Plays the production cycle on the simulated world with every fault at every call.

One fault a run takes half a minute for all scenarios. `SIMULATION_FAULTS=2` tries every pair of faults in the brief
one, and takes tens of minutes.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import pytest

from tests.simulation.exploring import SCENARIOS, command, explore, play, trace
from tests.simulation.faults import Fault
from tests.simulation.world import Parts

FAULTS = int(os.environ.get("SIMULATION_FAULTS", "1"))
"""Faults at once in the brief scenario."""

RULES = {
    "init aborts what is open",
    "an old epoch is fenced",
    "an old generation is refused",
    "a late request arrives",
    "a late request is refused",
    "a late COMMIT arrives",
    "a late COMMIT finds its session ended",
    "a session times out",
    "a transaction times out",
    "a static member comes back",
    "offsets are not stable",
    "markers are forgotten",
    "the marker of offsets is forgotten",
    "a commit is forgotten",
    "a dying session rolls back",
    "an idle transaction is ended",
    "the old session is ended first",
    "a slot is lost",
    "a lock is waited for",
    "a lock times out",
    "a request waits for an aggregate",
    "the inbox drops an event",
    "a claim is made smaller",
    "a record ends its process",
    "a record ends its session",
    "a process outlives an attempt",
    "a record is parked",
    "a record is parked behind another of its key",
    "a parked record is gone",
    "a dead letter holds its key",
}
"""Rules of the model. One that never applies would hide a gap."""


@dataclass
class Explored:
    """The result of all runs of one scenario."""

    runs: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    failure: str | None = None


@cache
def explored(name: str) -> Explored:
    """Play a scenario with every fault at every call, up to the first failure."""
    found = Explored()
    for plan, run in explore(SCENARIOS[name], FAULTS if name == "brief" else 1):
        found.runs += 1
        found.rules += run.rules
        found.faults.update(plan.values())
        if run.violation:
            found.failure = f"{trace(run.points)}\n{run.violation}\n{command(name, plan)}"
            break
    return found


@pytest.mark.timeout(300 if FAULTS == 1 else 0)
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_fault_anywhere_breaks_nothing(name: str) -> None:
    """After any one fault, each effect is there once, each row is published once and in order, and all rests."""
    found = explored(name)
    assert found.failure is None, found.failure


def test_every_rule_of_the_world_applied() -> None:
    """The runs above met every rule of the model and every fault; an unlisted name is noticed too."""
    rules: Counter[str] = Counter()
    faults: Counter[Fault] = Counter()
    for name in SCENARIOS:
        rules += explored(name).rules
        faults += explored(name).faults
    assert set(rules) == RULES
    assert set(faults) == set(Fault) - {Fault.NONE}


def test_the_same_plan_is_the_same_run() -> None:
    """A failure's trace is of use only if it can be played again."""
    plan = {40: Fault.SLEEP, 90: Fault.DIE_LONG}
    first, second = (play(SCENARIOS["two-workers"], plan, Parts()) for _ in range(2))
    assert first == second
