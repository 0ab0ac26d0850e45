"""The declaration of a service, and the routing of events to its handlers.

    service = Service("inventory", publishes=(StockReserved, StockSold))

    @service.on(PaymentCaptured, reservations)
    def sell(event: PaymentCaptured, reservation: Reservation) -> StockSold:
        ...

A handler takes an event and the rows that it needs (`shared.declaration`), and the session if it adds rows or queries
the database; it knows no broker, no clock and no HTTP. It returns the event to publish, several of them, or None. A
state machine (`shared.states`) decides whether the handler is called, and moves the row.

    @service.on_batch(StockCounted)
    def correct(events: Sequence[StockCounted], session: Session) -> Iterable[tuple[StockCounted, StockCorrected]]:
        ...

A batch handler takes all events of one type that follow each other in a batch, for statements about many rows at once.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Never, ParamSpec, TypeVar, get_type_hints, overload

from .declaration.batches import BatchRoute, read_batch
from .declaration.routes import (
    Route,
    holding,
    read,
    refuse_clash,
    refuse_no_event,
    refuse_unmoved,
    refuse_unpublishable,
)
from .events import Event
from .recurring import Recurrence, declared
from .states import Machine

E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
P = ParamSpec("P")
Due = TypeVar("Due", bound=Event)
AfterDeadLetter = Literal["go on", "wait"]
"""What later records of a key do when one of it becomes a dead letter."""
Published = TypeVar("Published", bound=Event | Iterable[Event] | None)
"""What a handler returns."""
Caused = TypeVar("Caused", bound=Iterable[tuple[Event, Event]] | None)
"""What a batch handler returns: each event with its cause."""


class Service:
    """A service as the library sees it: its name, the events it publishes, and its handlers."""

    def __init__(self, name: str, *, publishes: Iterable[type[Event]] = (), **replaced: Never) -> None:
        """Declare a service. Handlers are added by `on` and `on_batch`."""
        if replaced:
            raise TypeError(
                f"Service({name!r}, ...) takes `publishes=(Event, ...)` instead of `says=`, and a handler is declared "
                f"by `@service.on(Event)` above it instead of in `routes=`; it was given {', '.join(replaced)}"
            )
        given: Any = name  # it may not have been type-checked
        if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", given):
            raise ValueError(
                f"Service({name!r}): the name of a service begins its topics: letters, digits, `.`, `_` and `-`, at "
                "most 200"
            )
        if isinstance(publishes, type):
            raise TypeError(f"Service({name!r}): write `publishes=({publishes.__name__},)`: it is a tuple")
        self.name = name
        self.publishes = tuple(publishes)
        self._routes: list[Route | BatchRoute] = []
        self._by_hand: set[type[Event]] = set()
        """Events whose handler was declared with None for a machine: it moves rows itself."""
        where = f"Service({name!r}, publishes=...)"
        self._recurrences: dict[str, Recurrence] = {}
        refuse_unpublishable(self.publishes, where)
        for event in self.publishes:
            self._refuse_lane_topic(event, where)

    @property
    def routes(self) -> tuple[Route | BatchRoute, ...]:
        """All handlers, in the order of their declaration. Raises `TypeError` if one has forgotten its machine."""
        refuse_unmoved(self._routes, self._by_hand)
        return tuple(self._routes)

    def renamed(self, name: str) -> "Service":
        """Return the same service under another name, with which the names of its topics and groups begin."""
        other = Service(name, publishes=self.publishes)
        other._routes, other._by_hand, other._recurrences = self._routes, self._by_hand, self._recurrences
        return other

    @overload
    def on(
        self, event: type[E1], machine: Machine[Any] | None = None, /, *, after_dead_letter: AfterDeadLetter = ...
    ) -> Callable[[Callable[Concatenate[E1, P], Published]], Callable[Concatenate[E1, P], Published]]: ...

    @overload
    def on(
        self,
        event: type[E1],
        other: type[E2],
        machine: Machine[Any] | None = None,
        /,
        *,
        after_dead_letter: AfterDeadLetter = ...,
    ) -> Callable[[Callable[Concatenate[E1 | E2, P], Published]], Callable[Concatenate[E1 | E2, P], Published]]: ...

    @overload
    def on(
        self,
        event: type[E1],
        other: type[E2],
        third: type[E3],
        machine: Machine[Any] | None = None,
        /,
        *,
        after_dead_letter: AfterDeadLetter = ...,
    ) -> Callable[
        [Callable[Concatenate[E1 | E2 | E3, P], Published]], Callable[Concatenate[E1 | E2 | E3, P], Published]
    ]: ...

    def on(self, *given: Any, after_dead_letter: AfterDeadLetter = "go on") -> Callable[[Any], Any]:
        """Route an event, or several, to the decorated handler. Several handlers of one type run in the order of their
        declaration, in one transaction. If a machine of the service has a row for an event, one of its handlers
        consults it; None in the machine's place says that the handler calls `Machine.move` itself.

        With `after_dead_letter="wait"` a record that becomes a dead letter holds its key: later records of it wait
        until somebody has redriven or dismissed it. One handler of a type that says so is enough.

        Raises `TypeError` if the function cannot handle these events, with a message that says what to write.
        """
        *events, machine = given if given and isinstance(given[-1], Machine | NoneType) else (*given, None)
        for event in events or (None,):
            refuse_no_event(event, f"{self.name}: @service.on(...)")
        for event in events:
            self._refuse_lane_topic(event, f"{self.name}: @service.on(...)")
        holds = holding(after_dead_letter, f"{self.name}: @service.on(...)")

        def decorate(handler: Any) -> Any:
            added = read(handler, events, machine, self.publishes)
            refuse_clash(self._routes, added)
            for route in added:
                route.holds = holds
            self._routes += added
            if given[-1] is None:
                self._by_hand.update(events)
            return handler

        return decorate

    def on_batch(
        self, event: type[E1], /, *machine: None, after_dead_letter: AfterDeadLetter = "go on"
    ) -> Callable[[Callable[Concatenate[Sequence[E1], P], Caused]], Callable[Concatenate[Sequence[E1], P], Caused]]:
        """Route an event to the decorated batch handler: all events of this type that follow each other in a batch are
        given to one call, so the order of the partition is kept among the types too. It returns each event to publish
        with its cause, `(cause, event)`, where the cause is one of those that it was given.

        A call that fails is repeated with half the events, until the one that fails is alone. Which events share a call
        is chance: a handler does the same for several as for each in turn. Several batch handlers of one type each take
        all events of the call, in the order of their declaration. A machine that has a row for the event is consulted
        by none; None after the event says that the handler moves its rows itself. `after_dead_letter` is that of `on`.

        Raises `TypeError` if the function cannot handle these events, with a message that says what to write.
        """
        where = f"{self.name}: @service.on_batch(...)"
        refuse_no_event(event, where)
        self._refuse_lane_topic(event, where)
        if len(machine) > 1 or any(isinstance(one, type) for one in machine):
            raise TypeError(f"{where}: a batch handler takes one type of event: declare it once for each")
        holds = holding(after_dead_letter, where)

        def decorate(handler: Any) -> Any:
            added = read_batch(handler, event, machine[0] if machine else None, self.publishes)
            refuse_clash(self._routes, [added])
            added.holds = holds
            self._routes.append(added)
            if machine:
                self._by_hand.add(event)
            return handler

        return decorate

    def recurring(
        self, name: str, *, cron: str, timezone: str = "UTC"
    ) -> Callable[[Callable[[datetime], Due]], Callable[[datetime], Due]]:
        """Publish, at each moment of the cron expression, the event that the decorated function makes of it. The moment
        has the time zone given, and is the run's own, also if it is published late. Runs that nobody was up for are
        left out, but the first of them.

        Raises `TypeError` or `ValueError` for what cannot recur, such as an expression that never fires.
        """

        def decorate(function: Any) -> Any:
            made = declared(name, cron, timezone, function)
            of = f"{self.name}: @service.recurring({name!r})"
            if name in self._recurrences:
                raise ValueError(f"{of} is declared twice: give each its own name")
            event = get_type_hints(function).get("return")
            if event not in self.publishes:
                raise TypeError(
                    f"{of}: the function says by its return type which event it makes, one of `publishes` of the "
                    f"Service, as in `def {getattr(function, '__name__', 'nightly')}(run: datetime) -> ReportDue`"
                )
            self._recurrences[name] = made
            return function

        return decorate

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        """All recurring events, in the order of their declaration."""
        return tuple(self._recurrences.values())

    def _refuse_lane_topic(self, event: type[Event], where: str) -> None:
        if event.topic == self.lane_topic:
            raise ValueError(
                f"{where}: {event.__name__} is on {event.topic}, where the library keeps the published positions, and "
                "which stays empty: give it another topic"
            )

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
