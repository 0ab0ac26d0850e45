"""A handler's declaration: its event, its rows, and what it may return, all read when its service is imported."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from types import NoneType
from typing import Any, get_type_hints

import msgspec

from ..events import VERSION_MAX, Event
from ..session import Session
from ..states import NONE, Machine, name_of
from .annotations import classes_in, members
from .rows import Rows, parameter
from .signatures import accepts, given, spelled, taken


class Declared:
    """What is known of any handler: its event, and the rows that it needs."""

    of_batch = False
    """Whether it takes all events of its type in a row, instead of one."""
    holds = False
    """Whether later records of its key wait behind one that became a dead letter."""
    machine: Machine[Any] | None = None
    judged: Rows | None = None
    """The row whose state the machine checks; it need not be a parameter of the handler."""

    def __init__(self, event: type[Event], handler: Callable[..., Any], rows: tuple[Rows, ...]) -> None:
        self.event = event
        self.handler = handler
        self.rows = rows
        """In the order in which they are locked; each is a stage of the whole batch."""
        self.name = str(getattr(handler, "__qualname__", repr(handler)))
        """The handler's name, for messages."""


class Route(Declared):
    """A handler of one event at a time."""

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
        super().__init__(event, handler, rows)
        self.machine = machine
        self.judged = judged
        self._session = session
        self._given = tuple(one for one in rows if one.name)
        self._returns_event = returns_event

    def call(self, event: Event, session: Session) -> Iterable[Event]:
        """Handle `event` as the machine says; return the events to publish."""
        judged = self.judged
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


def holding(after_dead_letter: Any, where: str) -> bool:
    """Return whether a dead letter holds its key. Raises `ValueError` for what says neither."""
    if after_dead_letter not in ("go on", "wait"):
        raise ValueError(
            f'{where}: after_dead_letter={after_dead_letter!r}: write "wait" if later records of its key wait until '
            'somebody has decided about the dead letter, or "go on" if they are handled without it'
        )
    return bool(after_dead_letter == "wait")


def refuse_no_event(event: Any, where: str) -> None:
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise TypeError(f"{where}: {event!r} is not a class of events")
    if not hasattr(event, "topic"):
        raise TypeError(f'{where}: {event.__name__} has no topic: `class {event.__name__}(..., topic="...")`')
    topic: Any = event.topic  # neither may have been type-checked
    version: Any = event.version
    if not isinstance(topic, str) or not re.fullmatch(r"(?!\.\.?\Z)[A-Za-z0-9._-]{1,249}", topic):
        raise ValueError(
            f"{where}: the topic of {event.__name__} is {topic!r}; Kafka takes letters, digits, `.`, `_` and `-`, at "
            "most 249"
        )
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise ValueError(
            f"{where}: the version of {event.__name__} is {version!r}; it is a whole number from 1 to {VERSION_MAX}"
        )


def refuse_unpublishable(events: Sequence[type[Event]], where: str) -> None:
    """Refuse events that no service could publish. Raises `TypeError` or `ValueError`."""
    types: dict[tuple[str, str, int], type[Event]] = {}
    for event in events:
        refuse_no_event(event, where)
        name = event.__name__
        if event.key is Event.key:
            raise TypeError(f'{where}: it publishes {name}, which has no key: `class {name}(..., key="...")`')
        for field in _without_value(event):
            raise TypeError(
                f"{where}: the key of {name} is `{field}`, which may be without a value by its type; declare it "
                "without None, for the key is never empty"
            )
        other = types.setdefault(_type(event), event)
        if other is not event:
            raise _two_classes(other, event, where)


def _without_value(event: type[Event]) -> list[str]:
    try:
        hints = get_type_hints(event)
    except (NameError, AttributeError):  # msgspec refuses such an event
        return []
    return [field for field in event.key_fields if {NoneType, msgspec.UnsetType} & {*members(hints.get(field))}]


def _type(event: type[Event]) -> tuple[str, str, int]:
    """What the record of an event shows of its class."""
    return event.topic, event.__name__, event.version


def _two_classes(one: type[Event], other: type[Event], where: str) -> TypeError:
    names = " and ".join(f"{event.__module__}.{event.__qualname__}" for event in (one, other))
    return TypeError(
        f"{where}: two classes are {one.__name__}.v{one.version} on {one.topic}, {names}: a record is of one class; "
        "use one for both, or give one another `version`"
    )


def refuse_clash(known: Sequence[Declared], added: Sequence[Declared]) -> None:
    """Refuse handlers that get into the way of those declared before. Raises `TypeError`."""
    for n, route in enumerate(added):
        for other in (*known, *added[:n]):
            what = f"the handler of {route.event.__name__}, {route.name}"
            if route.event is not other.event:
                if _type(route.event) == _type(other.event):
                    raise _two_classes(other.event, route.event, what)
                continue
            if route.handler == other.handler:
                raise TypeError(f"{what}, is declared for it twice, and would run twice for each event")
            if route.of_batch is not other.of_batch:
                raise TypeError(
                    f"{what}, and {other.name}: one takes an event, the other all events of a batch, and then their "
                    "order is not that of the declaration: declare both by `on`, or both by `on_batch`"
                )
            if _moves_the_same(route, other):
                assert route.machine is not None
                raise TypeError(
                    f"{what}, and {other.name} both have their row of {route.machine.model.__name__} moved: leave the "
                    "machine away at one; the second would find the state to which the first has moved it"
                )


def _moves_the_same(route: Declared, other: Declared) -> bool:
    if route.machine is None or other.machine is None or route.machine.model is not other.machine.model:
        return False
    return route.judged is not None and other.judged is not None and route.judged.source == other.judged.source


def refuse_unmoved(routes: Sequence[Declared], by_hand: Collection[type[Event]]) -> None:
    """Refuse an event for which a machine of the service has a row, if none of its handlers consults a machine, or
    says that it moves rows itself. Raises `TypeError`.
    """
    consulted = {route.event for route in routes if route.machine is not None}
    machines = dict.fromkeys(route.machine for route in routes if route.machine is not None)
    for route in routes:
        event = route.event
        for machine in machines:
            if event in consulted or event in by_hand or event not in machine.table:
                continue
            if any((rows.many or route.of_batch) and rows.model is machine.model for rows in route.rows):
                continue
            advice = f"`@service.on({event.__name__}, {machine.name.replace(' ', '_').upper()})`, or "
            if route.of_batch:
                advice += f"`@service.on_batch({event.__name__}, None)` if this handler moves rows as the table says"
            else:
                advice += f"`@service.on({event.__name__}, None)` if this handler calls `move` of the machine itself"
            raise TypeError(
                f"the handler of {event.__name__}, {route.name}: the table of {machine.name} has a row for "
                f"{event.__name__}, and no handler consults it: write {advice}"
            )


def read(
    handler: Any, events: Sequence[type[Event]], machine: Machine[Any] | None, publishes: Sequence[type[Event]]
) -> list[Route]:
    """Read a handler's parameters and return type, and return its routes, one per event.

    Raises `TypeError` for what cannot be a handler of these events, with a sentence that says what to write.
    """
    what = f"the handler of {' and '.join(event.__name__ for event in events)}"
    of = f"{what}, {getattr(handler, '__qualname__', handler)!s}"
    first, rest, hints = taken(handler, "the event", of)
    accepted = hints.get(first.name, Any)
    for event in events:
        if not accepts(accepted, event):
            raise TypeError(
                f"{of}: `{first.name}` is declared as {spelled(accepted)}, and would be given {event.__name__}"
            )
    rows, session = given(rest, hints, events, of)
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
    for event in classes_in(returned, Event):
        if event is not Event and event not in publishes:
            raise TypeError(
                f"{of}: it returns {event.__name__}, which is not published: add it to `publishes` of the Service"
            )
    return NoneType not in members(returned) and returned is not None
