"""How an event finds its handlers, and what a service declares about itself.

A handler is a function `handler(event, session) -> events to say`. It knows no broker, no clock and no HTTP; it reads and writes through the session.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.events import Event
from shared.session import Session

Heard = TypeVar("Heard", bound=Event)
Handler = Callable[[Heard, Session], Iterable[Event]]


@dataclass(frozen=True)
class Read:
    """The rows that a handler will need: loaded and locked once for the whole batch, before its first handler runs."""

    model: type[Any]
    keys: Callable[[Any, Session], Iterable[object]]
    """Gives the primary keys from the event; may look at rows that an earlier `Read` of the same route has loaded."""


@dataclass(frozen=True)
class Route:
    """One handler of one type of event."""

    event: type[Event]
    handler: Callable[[Any, Session], Iterable[Event]]
    reads: tuple[Read, ...]


def on(event: type[Heard], handler: Handler[Heard], *reads: Read) -> Route:
    """Route `event` to `handler`, which needs `reads`. Several handlers of one type run in their order, in one transaction."""
    return Route(event, handler, reads)


@dataclass(frozen=True)
class Service:
    """What a service is to the library: its name, what it hears, what it says."""

    name: str
    routes: tuple[Route, ...]
    says: tuple[type[Event], ...]

    @property
    def hears(self) -> tuple[str, ...]:
        """The topics it consumes, in name order."""
        return tuple(sorted({route.event.topic for route in self.routes}))

    @property
    def speaks_on(self) -> tuple[str, ...]:
        """The topics it produces to, in name order."""
        return tuple(sorted({event.topic for event in self.says}))

    @property
    def lane_topic(self) -> str:
        """The empty topic whose assignment decides who relays which lane, and whose committed offsets are P."""
        return f"{self.name}.outbox"

    @property
    def dead_letter_topic(self) -> str:
        """The topic that tells of records set aside."""
        return f"{self.name}.dead-letters"
