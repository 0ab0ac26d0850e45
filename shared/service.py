"""How an event finds its handlers, and what a service declares about itself.

A handler is a function `handler(event, session) -> events to publish`. It knows no broker, no clock and no HTTP; it
reads and writes through the session.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import inspect as mapping

from .events import Event
from .session import Session

Consumed = TypeVar("Consumed", bound=Event)
Handler = Callable[[Consumed, Session], Iterable[Event]]


@dataclass(frozen=True)
class Read:
    """The rows that a handler will need: loaded and locked once for the whole batch, before its first handler runs."""

    model: type[Any]
    keys: Callable[[Any, Session], Iterable[object]]
    """Returns the primary keys from the event, a tuple for each if the key has several columns; may look at rows that
    an earlier `Read` of the same route has loaded.
    """

    def __post_init__(self) -> None:
        if not hasattr(mapping(self.model, raiseerr=False), "primary_key"):
            raise TypeError(f"Read({self.model!r}, ...): its first argument is a class of a table")
        _refuse_unfit(self.keys, f"the keys of Read({self.model.__name__}, ...)")


@dataclass(frozen=True)
class Route:
    """One handler of one type of event."""

    event: type[Event]
    handler: Callable[[Any, Session], Iterable[Event]]
    reads: tuple[Read, ...]


def on(event: type[Consumed], handler: Handler[Consumed], *reads: Read) -> Route:
    """Route `event` to `handler`, which needs `reads`. Several handlers of one type run in their order, in one
    transaction.

    Raises `TypeError` for what cannot be a handler: one that is `async`, or that does not take an event and a session.
    """
    given: Any = (event, *reads)
    if not (isinstance(given[0], type) and issubclass(given[0], Event)):
        raise TypeError(f"on({event!r}, ...): its first argument is a class of events")
    _refuse_unfit(handler, f"the handler of {event.__name__}")
    if wrong := [read for read in given[1:] if not isinstance(read, Read)]:
        raise TypeError(f"on({event.__name__}, ...): {wrong[0]!r} is no Read(Model, keys)")
    return Route(event, handler, reads)


def _refuse_unfit(function: Any, what: str) -> None:
    """Refuse what a batch cannot call as `function(event, session)`. Raises `TypeError`."""
    name = f"{what}, {getattr(function, '__qualname__', function)!s},"
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"{name} is no function; it is called with an event and a session")
    called = inspect.unwrap(getattr(function, "func", function))  # of a partial
    called = called if inspect.isroutine(called) else type(called).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(
            f"{name} is async; it runs inside one database transaction, on a session that is not: write it with `def`, "
            f"and leave what has to wait for somebody else to another process"
        )
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{name} is called with an event and a session, and takes something else: {error}") from error


@dataclass(frozen=True)
class Service:
    """What a service is to the library: its name, what it consumes, what it publishes."""

    name: str
    routes: tuple[Route, ...]
    publishes: tuple[type[Event], ...]

    @property
    def consumed_topics(self) -> tuple[str, ...]:
        """The topics it consumes, in name order."""
        return tuple(sorted({route.event.topic for route in self.routes}))

    @property
    def published_topics(self) -> tuple[str, ...]:
        """The topics it produces to, in name order."""
        return tuple(sorted({event.topic for event in self.publishes}))

    @property
    def lane_topic(self) -> str:
        """The empty topic whose assignment decides who relays which lane, and whose committed offsets are the
        published positions.
        """
        return f"{self.name}.outbox"

    @property
    def dead_letter_topic(self) -> str:
        """The topic that tells of records set aside."""
        return f"{self.name}.dead-letters"
