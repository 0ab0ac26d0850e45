"""Plays many faults at once in random scenarios, seeded, and shrunk to the shortest failing plan.

`SIMULATION_EXAMPLES=20000 SIMULATION_SEED=7 pytest tests/simulation/test_random.py` looks longer, and elsewhere.
"""

import os
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.simulation.exploring import command, read, trace, written
from tests.simulation.faults import Fault
from tests.simulation.world import Arrive, Choose, Close, Open, Parts, Scenario, Step, World

EXAMPLES = int(os.environ.get("SIMULATION_EXAMPLES", "500"))
SEED = int(os.environ.get("SIMULATION_SEED", "1"))

WORDS = ("a", "b", "ab", "ba", "-a", "?b", "#a", "%b", "~a", "^a", "^#a", "duplicate")
"""The words consumed: a duplicate has the id of the event before it, # and % end what handles them,
~ is of a type that nobody consumes, ^ has to wait."""


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """Events and requests in any order; a request may commit at any time."""
    script: list[Step] = []
    running: list[str] = []
    last = Arrive("a", "e")
    for number in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from((*WORDS, "open", "close")))
        if kind == "open":
            key = draw(st.sampled_from("abcd"))
            if not any(name[-1] == key for name in running):  # or it would wait for itself: the script is one thread
                running.append(f"r{number}{key}")
                script.append(Open(running[-1]))
        elif kind == "close" and running:
            script.append(Close(running.pop(draw(st.integers(0, len(running) - 1)))))
        elif kind != "close":
            last = last if kind == "duplicate" else Arrive(kind, f"e{number}")
            script.append(last)
    return [*script, *(Close(name) for name in running)]


scenarios = st.builds(
    Scenario,
    scripts(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from((1, 2)),
    st.sampled_from((2, 8)),
    st.sampled_from((9, 1)),
)

faults = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from([f for f in Fault if f is not Fault.NONE])), max_size=10
)
"""The call from which a fault is due, counted from the one before it; the first call that offers it has it."""


def chooser(gaps: Sequence[tuple[int, Fault]]) -> Choose:
    """Return a chooser that lets each fault happen once."""
    due = list(zip(accumulate(gap for gap, _ in gaps), (fault for _, fault in gaps), strict=True))

    def choose(number: int, offered: Sequence[Fault]) -> Fault:
        for waiting in due:
            if waiting[0] <= number and waiting[1] in offered:
                due.remove(waiting)
                return waiting[1]
        return Fault.NONE

    return choose


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios, gaps=faults)
@pytest.mark.timeout(0 if "SIMULATION_EXAMPLES" in os.environ else 300)
def test_many_faults_break_nothing(scenario: Scenario, gaps: list[tuple[int, Fault]]) -> None:
    """After any faults, each effect is there once, each row is published once and in order, and all rests."""
    run = World(scenario, Parts(), chooser(gaps)).play()
    happened = {number: point.fault for number, point in enumerate(run.points) if point.fault is not Fault.NONE}
    assert read(written(scenario)) == scenario, "the command below would play something else"
    assert run.violation is None, (
        f"{trace(run.points)}\n{run.violation}\nseed {SEED}; again: {command(written(scenario), happened)}"
    )
