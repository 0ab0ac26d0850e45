"""Plays scenarios: by a plan, exhaustively up to a number of faults, and again from what a failure printed.

    python -m tests.simulation.exploring events 17:die 42:lose-reply

plays the scenario `events` with these two faults at choice points 17 and 42, and prints every call. A scenario without
a name is written as `2/1/1/2 a=e1 +r1b !r1b`: two processes, one slot, EndTxn v1, batches of two records; an event, a
request's begin and end. The last numbers may be left out.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence

from tests.simulation.broker import TOPIC
from tests.simulation.faults import Fault
from tests.simulation.world import (
    Arrive,
    Close,
    Dismiss,
    Open,
    Parts,
    Pause,
    Point,
    Redrive,
    Resume,
    Run,
    Scenario,
    Step,
    World,
)

Plan = Mapping[int, Fault]
"""Choice points and the faults that happen there."""

ARRIVALS: tuple[Step, ...] = (
    Arrive("a", "e1"),
    Arrive("ab", "e2"),  # comes with the records of a, and is about b: its row is in the other lane
    Arrive("-a", "e3"),  # was taken back: no reader may see it
    Arrive("ba", "e4"),
    Arrive("?a", "e5"),  # malformed
    Arrive("a", "e1"),  # comes again, from a producer that is not exactly-once
    Arrive("a", "e6"),
    Arrive("a", "e6"),  # a duplicate, perhaps in the same batch
)

REQUESTS: tuple[Step, ...] = (
    Open("r1a"),  # gets the lower row id and commits last
    Open("r2c"),
    Close("r2c"),
    Open("r3b"),
    Close("r3b"),
    Close("r1a"),
    Open("r4a"),
    Close("r4a"),
)

MIXED: tuple[Step, ...] = tuple(step for pair in zip(ARRIVALS, REQUESTS, strict=True) for step in pair)

FATAL: tuple[Step, ...] = (
    Arrive("#a", "e1"),  # ends the process that handles it
    Arrive("a", "e2"),  # innocent, and in a batch with it
)

SKIPPED: tuple[Step, ...] = (
    *(Arrive(word, f"e{number}") for number, word in enumerate("ab")),
    *(
        Arrive(word, f"e{number}")
        for number, word in enumerate(("~b", "~a", "~b", "~a", "a", "~a", "-a", "~b", "~a"), 2)
    ),
)
"""Some are of a type that nobody consumes; the first are noted, whatever they are."""

FATAL_AMONG_MANY: tuple[Step, ...] = (
    Open("r1a"),  # the others arrive while a waits for it, so that one batch holds all
    Arrive("a", "e1"),
    Arrive("a", "e2"),
    Arrive("b", "e3"),
    Arrive("#b", "e4"),  # in the second part of its input
    Close("r1a"),
)

PARKED: tuple[Step, ...] = (
    Arrive("^a", "e1"),  # has to wait once
    Arrive("c", "e2"),  # of another key: goes on
    Arrive("a", "e3"),  # waits behind it
    Arrive("^a", "e1"),  # a duplicate of what is parked, or was
    Arrive("a", "e5"),
)

HELD: tuple[Step, ...] = (
    Arrive("*a", "e1"),  # cannot be handled, and holds its key
    Arrive("c", "e2"),  # of another key: goes on
    Arrive("a", "e3"),  # waits until a person decides
    Redrive("a"),
    Arrive("a", "e4"),
)

PARKED_AND_HELD: tuple[Step, ...] = (
    Arrive("^*a", "e1"),  # waits first, and cannot be handled then
    Arrive("a", "e2"),
    Redrive("a"),
)

HELD_IN_A_BATCH: tuple[Step, ...] = (
    Open("r1a"),  # the others arrive while a waits for it
    Arrive("a", "e1"),
    Arrive("?*a", "e2"),  # cannot be read, and holds its key
    Arrive("a", "e3"),
    Close("r1a"),
    Dismiss("a"),
)

PAUSED: tuple[Step, ...] = (
    Arrive("a", "e1"),
    Arrive("^a", "e2"),  # has to wait, and is still parked when the topic is paused
    Pause(TOPIC),
    Arrive("b", "e3"),
    Open("r1a"),  # what the service decides itself goes on
    Close("r1a"),
    Arrive("a", "e4"),
    Resume(TOPIC),
)

SCENARIOS = {
    "brief": Scenario((ARRIVALS[0], *REQUESTS[-2:])),
    "events": Scenario(ARRIVALS),
    "requests": Scenario(REQUESTS),
    "two-workers": Scenario(MIXED, processes=2, slots=2),
    "handover": Scenario((*REQUESTS[3:5], *REQUESTS[:1], REQUESTS[5], *REQUESTS[-2:]), processes=2, slots=2),
    "standby": Scenario(MIXED, processes=2),
    "version-2": Scenario(MIXED, version=2),
    "skipped": Scenario(SKIPPED),
    "fatal": Scenario(FATAL),
    "fatal-among-many": Scenario(FATAL_AMONG_MANY, records=4),
    "parked": Scenario(PARKED),
    "parked-by-two": Scenario(PARKED, processes=2, slots=2),
    "parked-and-full": Scenario(PARKED[:3], parked=1),
    "parked-and-fatal": Scenario((Arrive("^#a", "e1"), Arrive("a", "e2"))),
    "held": Scenario(HELD),
    "parked-and-held": Scenario(PARKED_AND_HELD, processes=2, slots=2),
    "held-in-a-batch": Scenario(HELD_IN_A_BATCH, records=4),
    "held-and-full": Scenario(HELD[:4], parked=1),
    "paused": Scenario(PAUSED),
    "paused-by-two": Scenario(PAUSED[2:], processes=2, slots=2),
    "fatal-to-two": Scenario((Arrive("%a", "e1"),), processes=2, slots=2),
}


def play(scenario: Scenario, plan: Plan, parts: Parts) -> Run:
    """Play one scenario by a plan."""
    return World(scenario, parts, lambda number, _offered: plan.get(number, Fault.NONE)).play()


def explore(
    scenario: Scenario, faults: int, parts: Parts | None = None, only: Fault | None = None
) -> Iterator[tuple[dict[int, Fault], Run]]:
    """Play every plan of up to `faults` faults, or only of fault `only`."""
    plans: list[dict[int, Fault]] = [{}]
    while plans:
        plan = plans.pop()
        run = play(scenario, plan, parts or Parts())
        yield plan, run
        if len(plan) < faults:
            first = max(plan, default=-1) + 1
            for number, point in reversed(list(enumerate(run.points[first:], first))):
                plans += [plan | {number: fault} for fault in reversed(point.offered) if only in {None, fault}]


def written(scenario: Scenario) -> str:
    """Return a scenario as text that `read` understands."""
    marks = {Arrive: "", Open: "+", Close: "!", Redrive: ">", Dismiss: "<", Pause: "(", Resume: ")"}
    steps = (marks[type(step)] + "=".join(step) for step in scenario.script)
    return " ".join(["/".join(str(number) for number in scenario[1:]), *steps])


def read(text: str) -> Scenario:
    """Return a scenario by its name or its text."""
    if text in SCENARIOS:
        return SCENARIOS[text]
    numbers, *steps = text.split()
    script: list[Step] = []
    for step in steps:
        word, _, event_id = step.partition("=")
        kinds: dict[str, Step] = {
            "+": Open(step[1:]),
            "!": Close(step[1:]),
            ">": Redrive(step[1:]),
            "<": Dismiss(step[1:]),
            "(": Pause(step[1:]),
            ")": Resume(step[1:]),
        }
        script.append(kinds.get(step[0]) or Arrive(word, event_id))
    return Scenario(script, *(int(number) for number in numbers.split("/")))


def command(name: str, plan: Plan) -> str:
    """Return the command that plays this again."""
    return f"python -m tests.simulation.exploring '{name}' " + " ".join(f"{n}:{f.value}" for n, f in plan.items())


def trace(points: Sequence[Point]) -> str:
    """Describe the calls."""
    return "\n".join(
        f"{number:5} round {point.round:3}  process {point.process}  {point.call}"
        + (f"  <- {point.fault.value}" if point.fault is not Fault.NONE else "")
        for number, point in enumerate(points)
    )


def main(name: str, *faults: str) -> None:
    """Play one plan and print it."""
    plan = {int(number): Fault(fault) for number, _, fault in (text.partition(":") for text in faults)}
    run = play(read(name), plan, Parts())
    sys.stdout.write(f"{trace(run.points)}\n{run.violation or 'everything holds'}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
