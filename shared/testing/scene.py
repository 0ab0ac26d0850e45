"""A test of one handler, without servers.

    def test_what_is_paid_is_sold() -> None:
        scene = Scene(service, Reservation(order_id="o-1", state=RESERVED, lines={}))
        assert scene.when(PaymentCaptured(order_id="o-1")) == [StockSold(order_id="o-1")]
        assert scene.row(Reservation, "o-1").state == SOLD

The events are handled by the code of a worker, as one batch, on rows in memory (`MemorySession`). The tables' own
constraints are not checked there; `Trial` does the same on PostgreSQL.
"""

from collections.abc import Callable, Iterable
from copy import copy
from datetime import datetime, timedelta
from itertools import count
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.orm import DeclarativeBase

from ..calls.declaration import Again, Answer, Call, Done, GivenUp, Verdict
from ..calls.outbox import CallingOutbox
from ..calls.settling import events_of
from ..errors import HandlingFailed, Retry
from ..events import Envelope, Event, encoded
from ..postgres.handlers import Handlers
from ..protocol.ports import Delivery, Input, Record
from ..scheduling import Change
from ..service import Service
from ..session import Session
from .memory import Frozen, rows_of, thawed

Model = TypeVar("Model", bound=DeclarativeBase)

EVENT_BYTES_MAX = 900_000
"""Nearly the default of EVENT_BYTES_MAX."""


class Scheduled(NamedTuple):
    """An event that waits for its moment; `after` or `at`."""

    event: Event
    after: timedelta | None
    at: datetime | None


def scheduled(change: Change) -> Scheduled:
    """Return the event that `change` has scheduled."""
    assert change.moment is not None
    seconds, at = change.moment
    return Scheduled(change.pending.event, None if seconds is None else timedelta(seconds=seconds), at)


class Scene:
    """A service's rows, on which its handlers run."""

    def __init__(self, service: Service, *rows: DeclarativeBase) -> None:
        self._service = service
        self._rows: Frozen = frozenset()
        self._waiting: dict[str, Change] = {}
        self.given(*rows)

    @property
    def scheduled(self) -> dict[str, Scheduled]:
        """What is scheduled, by name. A scene has no clock: give `when` the event whose moment has come."""
        return {name: scheduled(change) for name, change in self._waiting.items()}

    def given(self, *rows: DeclarativeBase) -> None:
        """Add rows."""
        session = thawed(self._rows)
        session.add_all(rows)
        session.flush()
        self._rows = session.frozen()

    def when(self, *events: Event) -> list[Event]:
        """Handle `events` as one batch; return what is published. Raises what a handler raises, and then changes
        nothing.
        """
        session = thawed(self._rows)
        session.waiting = dict(self._waiting)
        published = handle(self._service, session, events)
        session.settle()
        self._rows, self._waiting = session.frozen(), session.waiting
        return published

    def answered(self, call: Call, answer: Answer) -> list[Event]:
        """Let `call` decide what `answer` means; return what is published, calls among it. Raises `Retry` if it is to
        be asked again, or what the call raises, and then changes nothing.
        """
        return self._settled(lambda session: call.answered(answer, session))

    def given_up(self, call: Call, why: GivenUp) -> list[Event]:
        """Give `call` up; return what is published, calls among it. Raises what the call raises."""
        return self._settled(lambda session: Done(*events_of(call.given_up(why, session), call)))

    def _settled(self, decide: Callable[[Session], Verdict]) -> list[Event]:
        session = thawed(self._rows)
        session.waiting = dict(self._waiting)
        published = settle(self._service, session, decide)
        session.settle()
        self._rows, self._waiting = session.frozen(), session.waiting
        return published

    def row(self, model: type[Model], key: Any) -> Model:
        """Return a row's current state. Raises `LookupError` if there is none."""
        found = thawed(self._rows).lock(model, key)
        if found is None:
            raise LookupError(f"there is no {model.__name__} {key!r}")
        return found

    def rows(self, model: type[Model]) -> list[Model]:
        """Return all rows of a table, unordered."""
        return rows_of(thawed(self._rows), model)

    def everything(self) -> Frozen:
        """Return all rows as values, for comparison."""
        return self._rows


def handle(service: Service, session: Session, events: Iterable[Event]) -> list[Event]:
    """Run the handlers of `events` on `session`, as a worker does; return what they publish. Raises what a handler
    raises, and what the outbox refuses; `LookupError` for an event that the service does not consume.
    """
    events = list(events)
    consumed = {route.event for route in service.routes}
    for event in events:
        if type(event) not in consumed:
            named = f"{type(event).__name__}.v{event.version}"
            raise LookupError(f"{service.name} does not consume {named}: it has no handler for it")
    published: list[Event] = []
    outbox = CallingOutbox(service, EVENT_BYTES_MAX)
    numbers = count()

    def collect(delivery: Delivery, given: Iterable[Event], change: Change | None = None) -> None:
        for event in given:
            outbox.collect(session, event, f"{delivery.envelope.id}.{next(numbers)}", None, change)
            if change is None:
                published.append(event)

    session.settler = lambda: outbox.settle(session)

    try:
        Handlers(service).run([_delivery(n, event) for n, event in enumerate(events)], session, collect)
    except HandlingFailed as failure:
        raise failure.__cause__ or failure from None
    session.flush()
    outbox.refuse_large([*session.collected, *(one.pending for one in session.changes.values() if one.pending)])
    return published


def settle(service: Service, session: Session, decide: Callable[[Session], Verdict]) -> list[Event]:
    """Decide about a call on `session`, as a caller does; return what is published. Raises `Retry` if it is to be asked
    again.
    """
    published: list[Event] = []
    outbox = CallingOutbox(service, EVENT_BYTES_MAX)
    numbers = count()

    def collect(event: Event, change: Change | None = None) -> None:
        outbox.collect(session, event, f"test.{next(numbers)}", None, change)
        if change is None:
            published.append(event)

    session.publisher = session.scheduler = collect
    session.settler = lambda: outbox.settle(session)
    try:
        with session.lent():
            verdict = decide(session)
            if isinstance(verdict, Again):
                raise Retry(verdict.why)
            for event in verdict.events:
                collect(event)
    finally:
        session.publisher = session.scheduler = None
    session.flush()
    outbox.refuse_large([*session.collected, *(one.pending for one in session.changes.values() if one.pending)])
    return published


def _delivery(offset: int, event: Event) -> Delivery:
    data = encoded(event)  # a worker hands no event to a handler that its type refuses
    event = copy(event)  # as if read from a record of its own: a batch handler tells its events apart by identity
    envelope = Envelope(f"test:{offset}", "test", type(event).__name__, event.version, "", event.key, data)
    return Delivery(Record(Input(event.topic, 0), offset, event.key.encode(), b"", None), envelope, event, 0)
