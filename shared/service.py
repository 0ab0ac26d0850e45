"""The declaration of a service, and the routing of events to its handlers.

    service = Service("inventory", publishes=(StockReserved, StockSold))

    @service.on(PaymentCaptured, reservations)
    def sell(event: PaymentCaptured, reservation: Reservation) -> StockSold:
        ...

A handler takes an event and the rows that it needs (`shared.declaration`), and the session if it adds rows or queries
the database; it knows no broker, no clock and no HTTP. It returns the event to publish, several of them, or None. A
state machine (`shared.states`) decides whether the handler is called, and moves the row.
"""

from collections.abc import Callable, Iterable
from types import NoneType
from typing import TYPE_CHECKING, Any, Concatenate, Never, ParamSpec, TypeVar, overload

from .declaration.routes import Route, read, refuse_no_event
from .events import Event
from .states import Machine

E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
P = ParamSpec("P")
Published = TypeVar("Published", bound=Event | Iterable[Event] | None)
"""What a handler returns."""


class Service:
    """A service as the library sees it: its name, the events it publishes, and its handlers."""

    def __init__(self, name: str, *, publishes: Iterable[type[Event]] = (), **replaced: Never) -> None:
        """Declare a service. Handlers are added by `on`."""
        if replaced:
            raise TypeError(
                f"Service({name!r}, ...) takes `publishes=(Event, ...)` instead of `says=`, and a handler is declared "
                f"by `@service.on(Event)` above it instead of in `routes=`; it was given {', '.join(replaced)}"
            )
        self.name = name
        self.publishes = tuple(publishes)
        self._routes: list[Route] = []
        for event in self.publishes:
            refuse_no_event(event, f"Service({name!r}, publishes=...)")

    @property
    def routes(self) -> tuple[Route, ...]:
        """All handlers, in the order of their declaration."""
        return tuple(self._routes)

    def renamed(self, name: str) -> "Service":
        """Return the same service under another name, with which the names of its topics and groups begin."""
        other = Service(name, publishes=self.publishes)
        other._routes = self._routes
        return other

    @overload
    def on(
        self, event: type[E1], machine: Machine[Any] | None = None, /
    ) -> Callable[[Callable[Concatenate[E1, P], Published]], Callable[Concatenate[E1, P], Published]]: ...

    @overload
    def on(
        self, event: type[E1], other: type[E2], machine: Machine[Any] | None = None, /
    ) -> Callable[[Callable[Concatenate[E1 | E2, P], Published]], Callable[Concatenate[E1 | E2, P], Published]]: ...

    @overload
    def on(
        self, event: type[E1], other: type[E2], third: type[E3], machine: Machine[Any] | None = None, /
    ) -> Callable[
        [Callable[Concatenate[E1 | E2 | E3, P], Published]], Callable[Concatenate[E1 | E2 | E3, P], Published]
    ]: ...

    def on(self, *given: Any) -> Callable[[Any], Any]:
        """Route an event, or several, to the decorated handler. Several handlers of one type run in the order of their
        declaration, in one transaction.

        Raises `TypeError` if the function cannot handle these events, with a message that says what to write.
        """
        *events, machine = given if given and isinstance(given[-1], Machine | NoneType) else (*given, None)
        for event in events or (None,):
            refuse_no_event(event, f"{self.name}: @service.on(...)")

        def decorate(handler: Any) -> Any:
            self._routes += read(handler, events, machine, self.publishes)
            return handler

        return decorate

    @property
    def consumed_topics(self) -> tuple[str, ...]:
        """The topics it consumes, in name order."""
        return tuple(sorted({route.event.topic for route in self._routes}))

    @property
    def published_topics(self) -> tuple[str, ...]:
        """The topics it publishes on, in name order."""
        return tuple(sorted({event.topic for event in self.publishes}))

    @property
    def lane_topic(self) -> str:
        """The empty topic whose assignment decides which worker publishes which lane, and whose committed offsets are
        the published positions.
        """
        return f"{self.name}.outbox"

    @property
    def dead_letter_topic(self) -> str:
        """The topic that announces records set aside."""
        return f"{self.name}.dead-letters"


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Never:
        if name in {"on", "Read"}:
            raise ImportError(
                f"{name} is gone: write `@service.on(Event)` above the handler, and the rows that it needs as types of "
                f"its parameters (docs/upgrading.md)"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
