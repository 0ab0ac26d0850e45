"""A state machine is a table, so that every pair of a state and an event has an answer that somebody chose.

Events of two topics reach a service in any order, and one that was set aside comes late. A cell says what an event
means in a state: it moves the row, it is ignored for a reason, or it is refused: a record is then set aside where an
operator sees it, a request is answered with 409. `docs/services.md` is written from the tables.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from prometheus_client import Counter

from .errors import Reject

IGNORED = Counter(
    "exactly_once_events_ignored_total",
    "Events that meant nothing in the state that they found",
    ["machine", "state", "event"],
)

NONE = "(none)"
"""The state of a row that does not exist yet."""


class Stateful(Protocol):
    """A row with a state."""

    state: str


class Cell(NamedTuple):
    """What one event means in one state."""

    to: tuple[str, ...] = ()
    """The states it may lead to; empty: it changes nothing."""
    why: str = ""
    refused: bool = False


def to(*states: str) -> Cell:
    """The event moves the row to one of `states`; the handler knows to which."""
    return Cell(to=states)


def ignore(why: str) -> Cell:
    """The event means nothing any more."""
    return Cell(why=why)


def refuse(why: str) -> Cell:
    """The event cannot be in this state, so there is a defect somewhere; or the command comes too late."""
    return Cell(why=why, refused=True)


class Machine:
    """The states of one kind of row. An event is named by its class's name, a command by any other name."""

    def __init__(self, name: str, states: Iterable[str], table: Mapping[str, Mapping[str, Cell]]) -> None:
        """`table` gives, for each event and each state, a cell; a missing or a superfluous one is refused here, at
        import.
        """
        self.name = name
        self.states = (NONE, *map(str, states))
        self.table = {event: {str(state): cell for state, cell in cells.items()} for event, cells in table.items()}
        for event, cells in self.table.items():
            if missing := [state for state in self.states if state not in cells]:
                raise ValueError(
                    f"the table of {name} does not say what {event} means in {', '.join(missing)}: add a cell there, "
                    f"`to(...)`, `ignore(why)` or `refuse(why)`"
                )
            named = {*cells, *(target for cell in cells.values() for target in cell.to)}
            if unknown := sorted(named - set(self.states)):
                raise ValueError(f"the table of {name} has {', '.join(unknown)} for {event}, and no such state")

    def ignores(self, row: Stateful | None, event: str) -> bool:
        """Whether `event` changes nothing about `row`, by rule. Raises `Reject` if it is refused there."""
        state = NONE if row is None else row.state
        cell = self.table[event][state]
        if cell.refused:
            raise Reject(f"{event} is refused for {self.name} in state {state}: {cell.why}")
        if not cell.to:
            IGNORED.labels(self.name, state, event).inc()
        return not cell.to

    def move(self, row: Stateful, event: str, target: str) -> None:
        """Change the state of `row`; the table must allow it."""
        if target not in self.table[event][row.state].to:
            raise ValueError(f"the table of {self.name} does not lead from {row.state} by {event} to {target}")
        row.state = target
