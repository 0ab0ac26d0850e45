"""What the inventory service does about each event.

A reservation is sold when the payment is captured, released when it is declined, and released when the order is
cancelled, from whatever state it then is in. An order that is cancelled before it is known here leaves a CANCELLED row,
so that the late `OrderPlaced` reserves nothing.
"""

from collections import Counter
from collections.abc import Iterable

from services.inventory.events import (
    AMOUNT_MAX,
    OrderCancelled,
    OrderPlaced,
    PaymentCaptured,
    PaymentDeclined,
    StockRejected,
    StockReleased,
    StockReserved,
    StockSold,
)
from services.inventory.models import Reservation, ReservationState, Stock
from shared.events import Event
from shared.service import Read, Service, on
from shared.session import Session
from shared.states import NONE, Machine, ignore, refuse, to

RESERVED = ReservationState.RESERVED
REJECTED = ReservationState.REJECTED
SOLD = ReservationState.SOLD
RELEASED = ReservationState.RELEASED
CANCELLED = ReservationState.CANCELLED

_REPEAT = ignore("a repeat, older than the inbox remembers")
_UNASKED = refuse("no payment is asked for before the stock is reserved")
_CONTRADICTION = refuse("the payment service contradicts itself")

RESERVATION = Machine(
    "reservation",
    ReservationState,
    {
        "OrderPlaced": {
            NONE: to(RESERVED, REJECTED),
            RESERVED: _REPEAT,
            REJECTED: _REPEAT,
            SOLD: _REPEAT,
            RELEASED: _REPEAT,
            CANCELLED: ignore("it was set aside, and cancelled before it came back"),
        },
        "PaymentCaptured": {
            NONE: _UNASKED,
            RESERVED: to(SOLD),
            REJECTED: _UNASKED,
            SOLD: _REPEAT,
            RELEASED: ignore("cancelled first; the payment service refunds it"),
            CANCELLED: _UNASKED,
        },
        "PaymentDeclined": {
            NONE: _UNASKED,
            RESERVED: to(RELEASED),
            REJECTED: _UNASKED,
            SOLD: _CONTRADICTION,
            RELEASED: ignore("cancelled first, or a repeat"),
            CANCELLED: _UNASKED,
        },
        "OrderCancelled": {
            NONE: to(CANCELLED),
            RESERVED: to(RELEASED),
            REJECTED: ignore("nothing was reserved"),
            SOLD: to(RELEASED),
            RELEASED: ignore("the payment was declined first"),
            CANCELLED: _REPEAT,
        },
    },
)


def reserve(event: OrderPlaced, session: Session) -> Iterable[Event]:
    """Reserve all lines or none, at today's prices."""
    if RESERVATION.ignores(session.lock(Reservation, event.order_id), "OrderPlaced"):
        return ()
    # Our own contract lets a line repeat a SKU; the sum counts.
    wanted: Counter[str] = Counter()
    for line in event.lines:
        wanted[line.sku] += line.quantity
    items = {sku: session.lock(Stock, sku) for sku in wanted}
    found = [(item, wanted[sku]) for sku, item in items.items() if item is not None]
    amount = sum(item.price * quantity for item, quantity in found)
    currencies = {item.currency for item, _ in found}
    reason = None
    if len(found) < len(wanted):
        reason = "UNKNOWN_SKU"
    elif len(currencies) > 1:
        reason = "MIXED_CURRENCIES"
    elif any(item.available < quantity for item, quantity in found):
        reason = "OUT_OF_STOCK"
    elif amount > AMOUNT_MAX:
        reason = "AMOUNT_TOO_LARGE"
    if reason is not None:
        session.add(
            Reservation(order_id=event.order_id, state=REJECTED, lines=dict(wanted), reason=reason, was_sold=False)
        )
        return (StockRejected(order_id=event.order_id, reason=reason),)
    for item, quantity in found:
        item.available -= quantity
        item.reserved += quantity
    (currency,) = currencies
    session.add(
        Reservation(
            order_id=event.order_id,
            state=RESERVED,
            lines=dict(wanted),
            amount=amount,
            currency=currency,
            was_sold=False,
        )
    )
    return (StockReserved(order_id=event.order_id, account=event.account, amount=amount, currency=currency),)


def sell(event: PaymentCaptured, session: Session) -> Iterable[Event]:
    """The money is taken: what was reserved is sold."""
    reservation = session.lock(Reservation, event.order_id)
    if RESERVATION.ignores(reservation, "PaymentCaptured") or reservation is None:
        return ()
    for item, quantity in _taken(reservation, session):
        item.reserved -= quantity
        item.sold += quantity
    RESERVATION.move(reservation, "PaymentCaptured", SOLD)
    reservation.was_sold = True
    return (StockSold(order_id=event.order_id),)


def release(event: PaymentDeclined | OrderCancelled, session: Session) -> Iterable[Event]:
    """There will be no sale, or there was one and it is undone: what was taken is available again."""
    reservation, name = session.lock(Reservation, event.order_id), type(event).__name__
    if RESERVATION.ignores(reservation, name):
        return ()
    if reservation is None:
        session.add(Reservation(order_id=event.order_id, state=CANCELLED, lines={}, was_sold=False))
        return ()
    for item, quantity in _taken(reservation, session):
        if reservation.state == SOLD:
            item.sold -= quantity
        else:
            item.reserved -= quantity
        item.available += quantity
    RESERVATION.move(reservation, name, RELEASED)
    return (StockReleased(order_id=event.order_id),)


def _taken(reservation: Reservation, session: Session) -> Iterable[tuple[Stock, int]]:
    for sku, quantity in reservation.lines.items():
        item = session.lock(Stock, sku)
        if item is None:
            raise LookupError(f"stock {sku!r} of reservation {reservation.order_id} is gone; items are never deleted")
        yield item, quantity


def _skus(event: PaymentCaptured | PaymentDeclined | OrderCancelled, session: Session) -> Iterable[str]:
    reservation = session.lock(Reservation, event.order_id)
    return () if reservation is None else reservation.lines


# Every route locks reservations before items: two workers never wait for each other.
_reservation = Read(Reservation, lambda event, _: (event.order_id,))
_items = Read(Stock, _skus)

SERVICE = Service(
    name="inventory",
    routes=(
        on(OrderPlaced, reserve, _reservation, Read(Stock, lambda event, _: [line.sku for line in event.lines])),
        on(OrderCancelled, release, _reservation, _items),
        on(PaymentCaptured, sell, _reservation, _items),
        on(PaymentDeclined, release, _reservation, _items),
    ),
    publishes=(StockReserved, StockRejected, StockReleased, StockSold),
)
