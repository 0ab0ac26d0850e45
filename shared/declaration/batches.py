"""A batch handler's declaration: `handler(events, session)` for many events of one type in a row.

It returns each event to publish with the event that caused it, `(cause, event)`: the id of what is published is made
from the record of its cause, so it is the same however the records are divided into batches.
"""

from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from ..events import Event
from ..session import Session
from ..states import Machine
from .annotations import classes_in, members
from .routes import Declared
from .rows import Rows
from .signatures import accepts, given, spelled, taken


class BatchRoute(Declared):
    """A handler of all events of one type that follow each other in a batch."""

    of_batch = True

    def __init__(
        self,
        event: type[Event],
        handler: Callable[..., Any],
        rows: tuple[Rows, ...],
        *,
        session: str | None,
        returns_events: bool,
    ) -> None:
        super().__init__(event, handler, rows)
        self._session = session
        self._returns_events = returns_events

    def call(self, events: Sequence[Event], session: Session) -> Sequence[tuple[int, Event]]:
        """Handle `events`; return the events to publish, each with the place of its cause in `events`.

        Raises `TypeError` for an event without a cause among them.
        """
        arguments: dict[str, Any] = {rows.name: rows.find_all(events, session) for rows in self.rows}
        if self._session is not None:
            arguments[self._session] = session
        returned = self.handler(events, **arguments)
        if returned is None and not self._returns_events:
            return ()
        if isinstance(returned, Event) or not isinstance(returned, Iterable):
            raise TypeError(
                f"{self.name} returned {'nothing' if returned is None else type(returned).__name__}; a batch handler "
                "returns a tuple or a list of `(cause, event)`, yields them, or returns None if its type says so"
            )
        places = {id(event): n for n, event in enumerate(events)}
        return [self._of_cause(one, places) for one in returned]

    def _of_cause(self, returned: Any, places: dict[int, int]) -> tuple[int, Event]:
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"{self.name} returned a {type(returned).__name__} without its cause: return `(cause, event)`, where "
                "the cause is the one of the given events because of which this one is published"
            )
        cause, event = returned
        place = places.get(id(cause))
        if place is None:
            raise TypeError(
                f"{self.name} returned a {type(event).__name__} because of a {type(cause).__name__} that it was not "
                "given: the cause is one of the given events, the very object and not a copy"
            )
        if not isinstance(event, Event):
            raise TypeError(f"{self.name} returned a {type(event).__name__} to publish, which is no event")
        return place, event


def read_batch(
    handler: Any, event: type[Event], machine: Machine[Any] | None, publishes: Sequence[type[Event]]
) -> BatchRoute:
    """Read a batch handler's parameters and return type.

    Raises `TypeError` for what cannot be a batch handler of this event, with a sentence that says what to write.
    """
    of = f"the batch handler of {event.__name__}, {getattr(handler, '__qualname__', handler)!s}"
    if machine is not None:
        raise TypeError(
            f"{of}: a batch handler moves its rows itself, as the table of {machine.name} says: write "
            f"`@service.on_batch({event.__name__}, None)`, or handle one event at a time, by `@service.on`"
        )
    first, rest, hints = taken(handler, "the events", of)
    if not _accepts_many(hints.get(first.name, Any), event):
        raise TypeError(
            f"{of}: `{first.name}` is declared as {spelled(hints[first.name])}, and would be given a "
            f"`Sequence[{event.__name__}]`"
        )
    rows, session = given(rest, hints, (event,), of, of_batch=True)
    example = f"Iterable[tuple[{event.__name__}, {publishes[0].__name__ if publishes else 'StockSold'}]]"
    if "return" not in hints:
        raise TypeError(
            f"{of}: it has no return type: write `-> {example}` for what it publishes, each with its cause, or "
            "`-> None`; without it a forgotten `return` would lose events"
        )
    _refuse_causeless(event, publishes, hints["return"], example, of)
    returned = members(hints["return"])
    return BatchRoute(
        event,
        handler,
        tuple(rows),
        session=session,
        returns_events=hints["return"] is not None and not {Any, NoneType} & {*returned},
    )


def _accepts_many(annotation: Any, event: type[Event]) -> bool:
    """Whether a parameter of this type may be given a sequence of `event`."""
    if annotation is Any:
        return True
    origin = get_origin(annotation)
    if not isinstance(origin, type) or not issubclass(Sequence, origin):
        return False
    return accepts(get_args(annotation)[0], event)


def _refuse_causeless(
    event: type[Event], publishes: Sequence[type[Event]], returned: Any, example: str, of: str
) -> None:
    """Refuse a return type that is neither nothing nor several `tuple[cause, event]`. Raises `TypeError`."""
    for one in members(returned):
        if one in (Any, None, NoneType):
            continue
        for pair in members(_each(one)):
            causes = get_args(pair)
            if get_origin(pair) is not tuple or len(causes) != 2 or Ellipsis in causes or not accepts(causes[0], event):
                raise TypeError(
                    f"{of}: it is declared to return {spelled(one)}; a batch handler returns what it publishes with "
                    f"its cause, `-> {example}`, or None"
                )
            for published in classes_in(causes[1], Event):
                if published is not Event and published not in publishes:
                    raise TypeError(
                        f"{of}: it returns {published.__name__}, which is not published: add it to `publishes` of the "
                        "Service"
                    )


def _each(several: Any) -> Any:
    """Return the type of the members of an iterable; None if it has no single one."""
    arguments = get_args(several)
    if len(arguments) == 1 or len(arguments) == 3 or arguments[1:] == (Ellipsis,):  # 3: a generator
        return arguments[0]
    return None
