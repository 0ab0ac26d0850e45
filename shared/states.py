"""A state machine is a table, so that its author has decided every pair of a state and an event.

Events of two topics reach a service in any order, and a redriven dead letter comes late. A cell decides what an event
means in a state: it moves the row, it is ignored for a reason, or it is refused. A refused record becomes a dead
letter, where an operator sees it; a refused request is answered with 409. `docs/services.md` is generated from the
tables.

    orders = Machine(Order, OrderState, {PaymentCaptured: {NONE: refuse("..."), PLACED: to(CONFIRMED), ...}, ...})

    @service.on(PaymentCaptured, orders)   # consults the table, calls the handler, and moves the row
    orders.move(order, CANCEL)             # the same for a command of a request
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Never, Protocol, TypeVar

from prometheus_client import Counter

from .errors import Reject
from .events import Event

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


Row = TypeVar("Row", bound=Stateful)


class Command:
    """A request's command to a row; a table has a row for it, as for an event."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Command({self.name!r})"


Cause = type[Event] | Command
"""An event or command, for which a table has a row."""


def name_of(cause: Cause) -> str:
    """Return the name of an event or a command, as used in messages and metrics."""
    return cause.name if isinstance(cause, Command) else cause.__name__


class Cell(NamedTuple):
    """The meaning of one event in one state."""

    to: tuple[str, ...] = ()
    """The states it may lead to; empty: it changes nothing."""
    why: str = ""
    refused: bool = False


Cells = Mapping[Any, Cell]
"""The meanings of an event, by state, or by a tuple of states that share one."""


def to(*states: str) -> Cell:
    """Move the row to one of `states`. A single one is set without the handler; of several, the handler chooses, and
    sets the state. `NONE` is reached by deleting the row, which is the handler's part.
    """
    if not states or not all(isinstance(state, str) for state in states):
        raise TypeError(
            f"`to(...)` takes one state or several, as in `to(SOLD, RELEASED)`, and was given {states!r}; an event "
            "that changes nothing has `ignore(why)`"
        )
    return Cell(to=states)


def ignore(why: str) -> Cell:
    """Do nothing: the event no longer means anything."""
    return Cell(why=why)


def refuse(why: str) -> Cell:
    """Raise `Reject`: the event cannot occur in this state, so there is a bug somewhere; or the command is too late."""
    return Cell(why=why, refused=True)


DUPLICATE = ignore("a duplicate, older than the inbox remembers")
"""The cell of an event that has already had its effect: the inbox drops duplicates, but not for ever."""


class Machine(Generic[Row]):
    """The states of one kind of row."""

    def __init__(
        self,
        model: type[Row],
        states: Iterable[str],
        table: Mapping[Cause | tuple[Cause, ...], Cells],
        *,
        name: str = "",
    ) -> None:
        """Read a cell for each event and each state from `table`. Several states may share a cell, and several events
        some of their cells: `{(Paid, Declined): {NONE: refuse("...")}, Paid: {PLACED: to(CONFIRMED)}, ...}`.

        Raises `TypeError` or `ValueError` for a row that is not for an event or command, and for a missing or
        superfluous cell: at import, where machines are made.

        `name` is used in messages and metrics; if empty, it is derived from `model`.
        """
        _refuse_no_model(model)
        self.model = model
        self.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", model.__name__).lower()
        self.states = (NONE, *_texts(states, self.name))
        self.table: dict[Cause, dict[str, Cell]] = {}
        for causes, cells in table.items():
            for cause in causes if isinstance(causes, tuple) else (causes,):
                given: Any = cause  # it may not have been type-checked
                if not isinstance(given, Command) and not (isinstance(given, type) and issubclass(given, Event)):
                    raise TypeError(
                        f"the table of {self.name} has a row for {cause!r}, which is neither a class of events nor a "
                        f"Command: write the class itself, not its name"
                    )
                self._add(cause, cells)
        for cause in self.table:
            self._refuse_incomplete(cause)

    def _add(self, cause: Cause, cells: Cells) -> None:
        if not isinstance(cells, Mapping):
            raise TypeError(
                f"the table of {self.name} has {cells!r} for {name_of(cause)}: write a cell for each state, "
                "`{NONE: refuse(why), ...}`"
            )
        found = self.table.get(cause, {})
        for group, cell in cells.items():
            states = (group,) if isinstance(group, str) or not isinstance(group, Iterable) else tuple(group)
            for state in states:
                self._refuse_no_cell(cause, state, cell)
                if _text(state) in found:
                    raise ValueError(f"the table of {self.name} has two cells for {name_of(cause)} in {_text(state)}")
                found[_text(state)] = cell
        self.table[cause] = {state: found[state] for state in [*self.states, *found] if state in found}

    def _refuse_no_cell(self, cause: Cause, state: Any, cell: Any) -> None:
        if not isinstance(state, str):
            raise TypeError(f"the table of {self.name} has a cell for {name_of(cause)} in {state!r}, which is no state")
        if not isinstance(cell, Cell):
            meant = f"`to({_text(cell)!r})`" if isinstance(cell, str) else "`to(...)`, `ignore(why)` or `refuse(why)`"
            raise TypeError(
                f"the table of {self.name} has {cell!r} for {name_of(cause)} in {_text(state)}: write {meant}"
            )

    def _refuse_incomplete(self, cause: Cause) -> None:
        cells, name = self.table[cause], name_of(cause)
        if missing := [state for state in self.states if state not in cells]:
            raise ValueError(
                f"the table of {self.name} does not decide what {name} means in {', '.join(missing)}: add a cell "
                f"there, `to(...)`, `ignore(why)` or `refuse(why)`"
            )
        named = {*cells, *(_text(target) for cell in cells.values() for target in cell.to)}
        if unknown := sorted(named - set(self.states)):
            raise ValueError(f"the table of {self.name} has {', '.join(unknown)} for {name}, and no such state")

    def cell(self, cause: Cause, state: str) -> Cell:
        """Return what `cause` means in `state`, and count it if it means nothing. Raises `Reject` if it is refused."""
        try:
            found = self.table[cause].get(state)
        except KeyError:
            raise TypeError(
                f"the table of {self.name} has no row for {cause!r}: give the class of the event, or the Command"
            ) from None
        if found is None:
            raise LookupError(f"{self.name} is in state {state}, which its table does not know")
        if found.refused:
            raise Reject(f"{name_of(cause)} is refused for {self.name} in state {state}: {found.why}")
        if not found.to:
            IGNORED.labels(self.name, _text(state), name_of(cause)).inc()
        return found

    def settle(self, cause: Cause, before: str, cell: Cell, row: Any) -> None:
        """Move `row`, which was in the state `before`, where `cell` leads, or check that its handler has done so.

        Raises `ValueError` if it is in a state that the table does not lead to.
        """
        after = NONE if row is None else row.state
        if after in cell.to and (row is None or after != NONE):
            return
        if row is not None and NONE in cell.to and (after == NONE or len(cell.to) == 1):
            raise ValueError(
                f"the table of {self.name} leads from {before} by {name_of(cause)} to {NONE}, where there is no row: "
                f"delete it, `session.delete(row)`"
            )
        if len(cell.to) == 1 and row is not None and after in (before, None):
            (row.state,) = cell.to
            return
        raise ValueError(
            f"the table of {self.name} does not lead from {before} by {name_of(cause)} to {after}, only to "
            f"{' or '.join(cell.to)}"
        )

    def move(self, row: Row, command: Cause, target: str | None = None) -> bool:
        """Move `row` by `command`, and return True; return False if the command means nothing in the row's state.

        Raises `Reject` if it is refused there: a request is answered with 409. `target` is needed where the table leads
        to several states. Where it leads to `NONE`, the caller deletes the row.
        """
        before = row.state
        cell = self.cell(command, before)
        if not cell.to:
            return False
        if target is None and cell.to == (NONE,):
            target = NONE
        if target is not None and target != NONE:
            row.state = target
        self.settle(command, before, cell, None if target == NONE else row)
        return True

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Never:
            if name == "ignores":
                raise AttributeError(
                    "`ignores` is gone: write `@service.on(Event, MACHINE)` above the handler, or "
                    "`MACHINE.move(row, COMMAND)` for a command of a request (docs/upgrading.md)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _text(state: str) -> str:
    """Return a state as it is stored: `str` of a member of `class State(str, Enum)` is its name."""
    return str.__str__(state)


def _texts(states: Any, machine: str) -> list[str]:
    found = list(states) if isinstance(states, Iterable) else [states]
    if wrong := [state for state in found if not isinstance(state, str)]:
        raise TypeError(
            f"the states of {machine} are text: write `class {machine.title().replace(' ', '')}State(StrEnum)`, or a "
            f"tuple of text; {wrong[0]!r} is none"
        )
    return [_text(state) for state in found]


def _refuse_no_model(model: Any) -> None:
    if not isinstance(model, type):
        raise TypeError(
            f"`Machine({model!r}, ...)`: its first argument is the class of the rows, `Machine(Order, OrderState, "
            "{Event: ...})`"
        )
    if hasattr(model, "__mapper__") and not hasattr(model, "state"):
        raise TypeError(
            f"{model.__name__} has no `state`: add the column, `state: Mapped[str]`, which its Machine moves"
        )
