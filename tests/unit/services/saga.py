"""A small world that runs the real handlers of the three services, to try every order of events.

It has what the network may do: topics are read in the order of one key, but each service reads each topic at its own
speed, the customer may cancel and the deadline may come at any moment, and a record may be set aside and redriven at
any later one. Events pass as JSON, as between the real services. The bank books and answers at any moment, and the two
are two steps; it may refuse, lose answers, or be given up.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec

from services.inventory import handlers as inventory
from services.inventory.models import Reservation, Stock
from services.order import events as order_events
from services.order import handlers as order
from services.order.models import Order
from services.payment import calls
from services.payment import states as payment
from services.payment.handlers import service as payment_service
from services.payment.models import Account, Entry, Payment
from shared.calls import Again, Answer, Call, GivenUp
from shared.calls.settling import events_of
from shared.declaration.routes import Route
from shared.errors import Reject
from shared.events import Event
from shared.scheduling import Change, Moment
from shared.service import Service
from shared.states import NONE, Machine
from shared.testing.memory import Frozen, MemorySession, thawed

SERVICES: Mapping[str, Service] = {s.name: s for s in (order.service, inventory.service, payment_service)}
MACHINES: Mapping[str, Machine[Any]] = {
    "order": order.ORDER,
    "inventory": inventory.RESERVATION,
    "payment": payment.PAYMENT,
}
AGGREGATES: Mapping[str, Any] = {"order": Order, "inventory": Reservation, "payment": Payment}
INITIAL_MONEY = 1_000
PRICE = 100
FORGETS, REFUSES, AT_ONCE = "loses answers, and is given up", "refuses", "does nothing else meanwhile"
"""What the bank may do besides answering; AT_ONCE: it answers before anything else happens."""
BOOKED, REFUSED = Answer(201, {}, b"{}"), Answer(calls.PAYMENT_REQUIRED, {}, b"{}")


class Due(NamedTuple):
    """A call to the bank that is due."""

    call: Call
    booked: bool = False
    """Whether the bank has done it; we may not know."""


class World(NamedTuple):
    """The state of everything. Equal worlds have the same futures."""

    rows: tuple[tuple[str, Frozen], ...]
    published: tuple[tuple[str, str, tuple[Event, ...]], ...]
    """Events by topic and key, in order."""
    read: frozenset[tuple[str, str, str, int]]
    """Service, topic, key: how many events it has read."""
    cancellable: frozenset[str]
    scheduled: frozenset[tuple[str, str, Event]]
    """Service, name, and the event that may become due."""
    aside: frozenset[tuple[str, Event]]
    """Service, and an event that it handles at any later moment: it was set aside, or its moment has come."""
    may_set_aside: int
    due: tuple[tuple[str, tuple[Due, ...]], ...]
    """Calls to the bank by key, in order: the first of a key is asked."""
    booked: tuple[Call, ...]
    """The bank's books."""
    late: frozenset[Call]
    """Captures that were given up, and that the bank may still get: a request that was long under way."""
    bank_also: frozenset[str]

    def session(self, service: str) -> MemorySession:
        session = thawed(dict(self.rows)[service])
        session.scheduler = partial(_schedule, session)
        for of, name, event in self.scheduled:
            if of == service:
                _schedule(session, event, Change(name, Moment(0.0, None), session.settle))
        session.settle()
        return session

    def after(self, service: str, session: MemorySession, published: list[Event], **changes: Any) -> "World":
        """Return the world in which `service` has committed."""
        logs = {(topic, key): events for topic, key, events in self.published}
        due = dict(changes.pop("due", self.due))
        for event in published:
            assert session.holds(event.key)
            if isinstance(event, Call):
                due[event.key] = (*due.get(event.key, ()), Due(event))
                continue
            logs[event.topic, event.key] = (*logs.get((event.topic, event.key), ()), event)
        rows = {**dict(self.rows), service: session.frozen()}
        session.settle()
        others = {one for one in self.scheduled if one[0] != service}
        waiting = {(service, name, change.pending) for name, change in session.waiting.items()}
        changes = {"scheduled": frozenset(others | waiting), **changes}
        return self._replace(
            rows=tuple(sorted(rows.items(), key=lambda item: item[0])),
            published=tuple(sorted((topic, key, events) for (topic, key), events in logs.items())),
            due=tuple(sorted(due.items())),
            **changes,
        )


def _schedule(session: MemorySession, event: Event, change: Change) -> None:
    change.pending = event
    session.changes[change.name] = change


class Move(NamedTuple):
    """A step: service, event, state before, and state after."""

    machine: str
    event: str
    before: str
    after: str


def start(
    orders: Mapping[str, Mapping[str, int]],
    account: str,
    *,
    may_set_aside: int = 0,
    overdue: int | None = None,
    bank_also: Collection[str] = (),
) -> World:
    """Return a world with only `orders` placed: 5 x tea and 5 x cup at 100 EUR, 1 x book at 100 USD, 1,000 EUR in ada's
    account. The deadlines of the first `overdue` orders may come, or those of all.
    """
    stock = [
        Stock(sku=sku, price=PRICE, currency=currency, available=n, reserved=0, sold=0, received=n)
        for sku, currency, n in (("tea", "EUR", 5), ("cup", "EUR", 5), ("book", "USD", 1))
    ]
    accounts = [Account(id="ada", currency="EUR", balance=INITIAL_MONEY), Account(id="bob", currency="EUR", balance=1)]
    rows = {"order": MemorySession(), "inventory": MemorySession(stock), "payment": MemorySession(accounts)}
    placed: list[Event] = []
    for order_id, lines in orders.items():
        rows["order"].add(Order(id=order_id, account=account, state=order.PLACED))
        published = tuple(order_events.Line(sku, quantity) for sku, quantity in lines.items())
        placed.append(order_events.OrderPlaced(order_id=order_id, account=account, lines=published))
    empty = World(
        rows=tuple(sorted(((name, session.frozen()) for name, session in rows.items()), key=lambda item: item[0])),
        published=(),
        read=frozenset(),
        cancellable=frozenset(orders),
        scheduled=frozenset(
            ("order", order.deadline_of(Order(id=order_id)), order_events.PaymentOverdue(order_id=order_id))
            for order_id in list(orders)[:overdue]
        ),
        aside=frozenset(),
        may_set_aside=may_set_aside,
        due=(),
        booked=(),
        late=frozenset(),
        bank_also=frozenset(bank_also),
    )
    session = empty.session("order")
    for order_id in orders:
        session.lock(Order, order_id)
    return empty.after("order", session, placed)


def _redrives(world: World) -> Iterator[tuple[World, Move | None]]:
    for service, event in world.aside:
        yield _handle(world._replace(aside=world.aside - {(service, event)}), service, event)


def _cancels(world: World) -> Iterator[tuple[World, Move | None]]:
    for order_id in world.cancellable:
        session = world.session("order")
        row = session.lock(Order, order_id)
        assert row is not None
        before = row.state
        published: list[Event] = []
        session.publisher = published.append
        with suppress(Reject):  # 409
            order.cancel(row, session)
        move = Move("order", order.CANCEL.name, before, row.state)
        yield world.after("order", session, published, cancellable=world.cancellable - {order_id}), move


def _deadlines(world: World) -> Iterator[tuple[World, Move | None]]:
    """Let what is scheduled become due: it is on its way, and cannot be cancelled any more."""
    for service, name, event in world.scheduled:
        left = world.scheduled - {(service, name, event)}
        yield world._replace(scheduled=left, aside=world.aside | {(service, event)}), None


def _deliveries(world: World) -> Iterator[tuple[World, Move | None]]:
    read = {(service, topic, key): count for service, topic, key, count in world.read}
    for name, service in SERVICES.items():
        for topic, key, events in world.published:
            before = done = read.get((name, topic, key), 0)
            consumed = None
            while consumed is None and done < len(events):  # what it does not consume, it skips: that is no move
                consumed = _consumed(service, events[done])
                done += 1
            if consumed is None:
                continue
            there = world._replace(read=(world.read - {(name, topic, key, before)}) | {(name, topic, key, done)})
            yield _handle(there, name, consumed)
            if world.may_set_aside:
                yield (
                    there._replace(aside=there.aside | {(name, consumed)}, may_set_aside=there.may_set_aside - 1),
                    None,
                )


def _banks(world: World) -> Iterator[tuple[World, Move | None]]:
    """Let the bank do, and answer, what is due."""
    for key, (first, *others) in ((key, due) for key, due in world.due if due):
        call, booked = first
        rest = tuple((k, tuple(others) if k == key else due) for k, due in world.due)
        done = world if booked else world._replace(booked=tuple(sorted((*world.booked, call), key=repr)))
        yield _settle(done._replace(due=rest), call, BOOKED)
        if FORGETS in world.bank_also and not booked:
            again = tuple((k, (Due(call, booked=True), *others) if k == key else due) for k, due in world.due)
            yield done._replace(due=again), None
        if not isinstance(call, calls.CapturePayment):
            continue
        if FORGETS in world.bank_also:
            late = world.late if booked else world.late | {call}
            given_up = GivenUp("deadline", 1, maybe_done=True, last_failure="-")
            yield _settle(world._replace(due=rest, late=late), call, given_up)
            if not booked:
                yield _settle(
                    world._replace(due=rest), call, GivenUp("deadline", 0, maybe_done=False, last_failure="-")
                )
        if REFUSES in world.bank_also and not booked:
            yield _settle(world._replace(due=rest), call, REFUSED)


def _late(world: World) -> Iterator[tuple[World, Move | None]]:
    """Let the bank get a capture that was given up long ago: it books none that was voided."""
    for call in world.late:
        voided = any(isinstance(one, calls.VoidCapture) and one.key == call.key for one in world.booked)
        booked = world.booked if voided else tuple(sorted((*world.booked, call), key=repr))
        yield world._replace(late=world.late - {call}, booked=booked), None


def _settle(world: World, call: Call, what: Answer | GivenUp) -> tuple[World, Move | None]:
    """Let the answer, or that there is none, have its effect: as a caller does, in one transaction."""
    session = world.session("payment")
    before = _state(session, "payment", call.key)
    session._locked.clear()  # it is for the answer to lock
    published: list[Event] = []
    session.publisher = published.append
    if isinstance(what, GivenUp):
        cause = payment.REFUSED
        published += events_of(call.given_up(what, session), call)
    else:
        cause = payment.PAID_BACK if isinstance(call, calls.RefundPayment) else payment.BOOKED
        cause = payment.REFUSED if what is REFUSED else cause
        verdict = call.answered(what, session)
        assert not isinstance(verdict, Again)
        published += verdict.events
    session.flush()
    held = set(session._locked)
    after = _state(session, "payment", call.key)
    session._locked = held
    move = None if isinstance(call, calls.VoidCapture) else Move("payment", cause.name, before, after)
    return world.after("payment", session, published), move


def _consumed(service: Service, event: Event) -> Event | None:
    """Return the listener's own view of an event; None if it does not consume the type."""
    for route in service.routes:
        if (route.event.topic, route.event.__name__) == (event.topic, type(event).__name__):
            return msgspec.json.decode(msgspec.json.encode(event), type=route.event)
    return None


def _handle(world: World, service: str, event: Event) -> tuple[World, Move]:
    session = world.session(service)
    before = _state(session, service, event.key)
    published: list[Event] = []
    session.publisher = published.append
    for route in SERVICES[service].routes:
        if route.event is type(event):
            assert isinstance(route, Route), "batch handlers are not explored"
            for rows in route.rows:
                rows.keys(event, session)  # a declaration must not fail on any world
            published += route.call(event, session)
    session.flush()
    after = _state(session, service, event.key)
    machine = MACHINES[service]
    following = world.after(service, session, published)
    while AT_ONCE in world.bank_also and (answered := next(_banks(following), None)) is not None:
        following, _ = answered
    return following, Move(machine.name, type(event).__name__, before, after)


def _state(session: MemorySession, service: str, key: str) -> str:
    row = session.lock(AGGREGATES[service], key)
    return NONE if row is None else str(row.state)


def explore(first: World, check: Callable[[World, bool], None]) -> tuple[int, set[Move]]:
    """Visit every world that can be reached; `check(world, settled)` looks at each. Return their number and all
    moves.
    """
    seen, waiting, found = {first}, [first], set[Move]()
    while waiting:
        world = waiting.pop()
        under_way = [*_deliveries(world), *_redrives(world), *_banks(world)]
        check(world, not under_way)
        for following, move in [*under_way, *_cancels(world), *_deadlines(world), *_late(world)]:
            if move is not None:
                found.add(move)
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return len(seen), found


def states(world: World, order_id: str) -> tuple[str, str, str]:
    """Return the states of an order, its reservation and its payment; TIMED OUT is one of the two kinds of REJECTED."""
    found = [_state(world.session(service), service, order_id) for service in SERVICES]
    (row,) = (row for row in rows(world, "order", Order) if row["id"] == order_id)
    return "TIMED OUT" if row["reason"] == "PAYMENT_TIMED_OUT" else found[0], found[1], found[2]


def captured(world: World, order_id: str) -> int:
    """Return what the merchant has received for an order, refunds deducted."""
    entries = [dict(columns) for model, columns in dict(world.rows)["payment"] if model is Entry]
    for posting, total in _totals(entries, "posting").items():
        assert total == 0, f"posting {posting} does not sum to zero"
    return _totals([e for e in entries if e["side"] == "merchant"], "order_id")[order_id]


def at_the_bank(world: World, order_id: str) -> int:
    """Return what the bank has booked for an order, refunds deducted; a void makes up for one capture, if any."""
    kinds = Counter(type(one) for one in world.booked if one.key == order_id)
    assert max(kinds.values(), default=1) == 1, f"the bank has booked twice for {order_id}"
    if kinds[calls.VoidCapture]:
        return 0
    amounts = {type(one): one.amount for one in world.booked if one.key == order_id and isinstance(one, calls.BankCall)}
    return amounts.get(calls.CapturePayment, 0) - amounts.get(calls.RefundPayment, 0)


def _totals(entries: list[dict[str, Any]], by: str) -> Counter[str]:
    totals: Counter[str] = Counter()
    for entry in entries:
        totals[entry[by]] += entry["amount"]
    return totals


def published(world: World, topic: str, order_id: str) -> list[str]:
    """Return the types of the events that were published about an order."""
    return [
        type(e).__name__ for name, key, events in world.published if (name, key) == (topic, order_id) for e in events
    ]


def rows(world: World, service: str, model: type[Any]) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    return [dict(columns) for kind, columns in dict(world.rows)[service] if kind is model]
