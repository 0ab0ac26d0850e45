"""A handler's declaration: its event, its rows, and what it may return, all read when its service is imported."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

from ..events import Event
from ..session import Session
from ..states import NONE, Machine, name_of
from .annotations import members
from .rows import Rows, parameter, refuse_async


class Route:
    """One handler of one type of event."""

    def __init__(
        self,
        event: type[Event],
        handler: Callable[..., Any],
        rows: tuple[Rows, ...],
        *,
        machine: Machine[Any] | None = None,
        judged: Rows | None = None,
        session: str | None = None,
        returns_event: bool = False,
    ) -> None:
        self.event = event
        self.handler = handler
        self.rows = rows
        """In the order in which they are locked; each is a stage of the whole batch."""
        self.machine = machine
        self._judged = judged
        """The row whose state the machine checks; it need not be a parameter of the handler."""
        self._session = session
        self._given = tuple(one for one in rows if one.name)
        self._returns_event = returns_event
        self.name = str(getattr(handler, "__qualname__", repr(handler)))
        """The handler's name, for messages."""

    def call(self, event: Event, session: Session) -> Iterable[Event]:
        """Handle `event` as the machine says; return the events to publish."""
        judged = self._judged
        if self.machine is None or judged is None:
            return self._events(self._call(event, session, {}))
        row = judged.find(event, session, {})
        before = NONE if row is None else row.state
        cell = self.machine.cell(self.event, before)
        if not cell.to:
            return ()
        events = self._events(self._call(event, session, {judged.name: row}))
        if row is None or NONE in cell.to:  # it may now be new, or deleted
            row = judged.find(event, session, {})
        self.machine.settle(self.event, before, cell, row)
        return events

    def _call(self, event: Event, session: Session, known: dict[str, Any]) -> Any:
        for rows in self._given:
            name = rows.name
            if name not in known:
                known[name] = rows.find(event, session, known)
            if known[name] is None and not rows.optional:
                rows.refuse_missing(event)
        known.pop("", None)
        if self._session is not None:
            known[self._session] = session
        return self.handler(event, **known)

    def _events(self, returned: Any) -> Sequence[Event]:
        """Return the events that a handler returned. Raises `TypeError` if it returned something else: a forgotten
        `return` must not lose an event.
        """
        if returned is None and not self._returns_event:
            return ()
        if isinstance(returned, Event):
            return (returned,)
        if not isinstance(returned, Iterable):
            raise TypeError(
                f"{self.name} returned {'nothing' if returned is None else type(returned).__name__}; a handler returns "
                f"the event to publish, several in a tuple or a list, or None if its type says so"
            )
        return returned if isinstance(returned, tuple | list) else tuple(returned)


def refuse_no_event(event: Any, where: str) -> None:
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise TypeError(f"{where}: {event!r} is not a class of events")
    if not hasattr(event, "topic"):
        raise TypeError(f'{where}: {event.__name__} has no topic: `class {event.__name__}(..., topic="...")`')


def read(
    handler: Any, events: Sequence[type[Event]], machine: Machine[Any] | None, publishes: Sequence[type[Event]]
) -> list[Route]:
    """Read a handler's parameters and return type, and return its routes, one per event.

    Raises `TypeError` for what cannot be a handler of these events, with a sentence that says what to write.
    """
    what = f"the handler of {' and '.join(event.__name__ for event in events)}"
    of = f"{what}, {getattr(handler, '__qualname__', handler)!s}"
    if not callable(handler) or inspect.isclass(handler):
        raise TypeError(f"{of}, is not a function; it is called with an event, rows and a session")
    refuse_async(handler, of)
    parameters, hints = _parameters(handler, of)
    first, *rest = parameters or [inspect.Parameter("event", inspect.Parameter.POSITIONAL_ONLY)]
    if not parameters or first.kind is inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(f"{of}: its first parameter is the event, and it takes none")
    taken = hints.get(first.name, Any)
    for event in events:
        if taken is not Any and not any(isinstance(one, type) and issubclass(event, one) for one in members(taken)):
            raise TypeError(
                f"{of}: `{first.name}` is declared as {_spelled(taken)}, and would be given {event.__name__}"
            )
    rows: list[Rows] = []
    session = None
    for one in rest:
        annotation = hints.get(one.name)
        found = parameter(one.name, annotation, events, rows, of)
        if found is not None:
            rows.append(found)
        elif isinstance(annotation, type) and issubclass(annotation, Session):
            session = one.name
        elif one.default is inspect.Parameter.empty and one.kind is not inspect.Parameter.VAR_KEYWORD:
            declared = f"is declared as {_spelled(annotation)}" if one.name in hints else "has no type"
            raise TypeError(
                f"{of}: `{one.name}` {declared}; besides the event a handler takes "
                f"`session: Session`, and rows: classes of tables, or `Mapping[..., Model]` with `lock(by=...)`"
            )
    judged = _judged(machine, events, rows, of) if machine is not None else None
    if judged is not None and judged not in rows:
        rows.insert(0, judged)
    if "return" not in hints:
        raise TypeError(
            f"{of}: it has no return type: write `-> {publishes[0].__name__ if publishes else 'StockSold'}` for the "
            "event that it publishes, or `-> None`; without it a forgotten `return` would lose an event"
        )
    returned = _refuse_undeclared(publishes, hints["return"], of)
    return [
        Route(
            event,
            handler,
            tuple(rows),
            machine=machine,
            judged=judged,
            session=session,
            returns_event=returned,
        )
        for event in events
    ]


def _parameters(handler: Any, of: str) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    inner = inspect.unwrap(getattr(handler, "func", handler))  # of a partial
    inner = inner if inspect.isroutine(inner) else type(inner).__call__
    try:
        hints = get_type_hints(inner, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{of}: its types cannot be read: {error}. Is it misspelt, or imported only under `if TYPE_CHECKING`?"
        ) from error
    bound = getattr(handler, "keywords", {})
    return [one for one in inspect.signature(handler).parameters.values() if one.name not in bound], hints


def _judged(machine: Machine[Any], events: Sequence[type[Event]], rows: list[Rows], of: str) -> Rows:
    """Return the row whose state `machine` checks: a parameter, or else the row with the event's key."""
    for event in events:
        if event not in machine.table:
            raise TypeError(f"{of}: the table of {machine.name} has no row for {event.__name__}")
    found = [one for one in rows if one.model is machine.model and not one.many]
    if len(found) > 1:
        raise TypeError(f"{of}: {found[0].name} and {found[1].name} are both rows of {machine.name}; it judges one")
    if not found:
        made = parameter("", machine.model, events, (), of)
        if made is None:
            raise TypeError(f"{of}: {machine.model!r}, whose states {machine.name} has, is not a class of a table")
        return made
    (row,) = found
    missing = [event for event in events if machine.table[event][NONE].to]
    model = machine.model.__name__
    if missing and not row.optional:
        leads = " or ".join(machine.table[missing[0]][NONE].to)
        raise TypeError(
            f"{of}: {name_of(missing[0])} leads from {NONE} to {leads}, so the row may be missing: declare "
            f"`{row.name}` as `{model} | None`"
        )
    if row.optional and not missing:
        raise TypeError(
            f"{of}: `{row.name}` is never None, for the table of {machine.name} lets no event through without a row: "
            f"declare it as `{model}`"
        )
    return row


def _refuse_undeclared(publishes: Sequence[type[Event]], returned: Any, of: str) -> bool:
    """Refuse a handler that returns an event that its service does not publish; return whether it always returns one
    or more events. Raises `TypeError`.
    """
    if returned is Any:
        return False
    for event in _events_in(returned):
        if event is not Event and event not in publishes:
            raise TypeError(
                f"{of}: it returns {event.__name__}, which is not published: add it to `publishes` of the Service"
            )
    return NoneType not in members(returned) and returned is not None


def _events_in(annotation: Any) -> Iterable[type[Event]]:
    if isinstance(annotation, type) and issubclass(annotation, Event):
        yield annotation
    for argument in get_args(annotation):
        yield from _events_in(argument)


def _spelled(annotation: Any) -> str:
    if annotation is None:
        return "nothing"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
