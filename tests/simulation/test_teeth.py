"""The simulation finds out every mutant of the protocol that can be found out."""

from pathlib import Path

import pytest

from tests.simulation.exploring import SCENARIOS, explore
from tests.simulation.faults import Fault
from tests.simulation.mutants import MUTANTS, Mutant, killed, parts

SUSPECT = next(mutant for mutant in MUTANTS if mutant.name == "a suspect producer is kept")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_protocol_without_this_step_is_found_out(mutant: Mutant) -> None:
    """Its fault breaks an invariant at some call; a survivor says why not."""
    found = killed(mutant, mutant.scenario, mutant.fault)
    assert bool(found) != bool(mutant.survives), found


def test_the_table_is_that_of_the_mutants() -> None:
    """`teeth.md` was written since the last mutant was added or renamed."""
    table = Path(__file__).with_name("teeth.md").read_text().splitlines()[2:]
    assert [row.split(" | ")[0] for row in table] == [f"| {mutant.name}" for mutant in MUTANTS]


def test_the_newer_end_of_a_transaction_needs_no_suspicion() -> None:
    """Version 2 of EndTxn raises the epoch, so a late one is fenced: what kills version 1 is harmless."""
    for _, run in explore(SCENARIOS["version-2"], 1, parts(SUSPECT), Fault.TWICE):
        assert run.violation is None
