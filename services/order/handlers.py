"""What the order service does about each event.

The order's own row decides the saga: it is confirmed by the payment or cancelled by the customer, whichever transaction
commits first, and never both. `OrderCancelled` is published if and only if the order is CANCELLED; the other services
undo what they had done when they consume it.
"""

from collections.abc import Iterable

from services.order.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCaptured,
    PaymentDeclined,
    StockRejected,
    StockReserved,
)
from services.order.models import Order, OrderState
from shared.events import Event
from shared.service import Read, Service, on
from shared.session import Session
from shared.states import NONE, Machine, ignore, refuse, to

PLACED = OrderState.PLACED
RESERVED = OrderState.RESERVED
CONFIRMED = OrderState.CONFIRMED
REJECTED = OrderState.REJECTED
CANCELLED = OrderState.CANCELLED
CANCEL = "cancel (HTTP)"

_UNKNOWN = refuse("it is this service that began the order")
_REPEAT = ignore("a repeat, older than the inbox remembers")
_UNDONE = ignore("cancelled first; the others undo it")
_CONTRADICTION = refuse("the inventory and the payment service contradict each other")

ORDER = Machine(
    "order",
    OrderState,
    {
        "StockReserved": {
            NONE: _UNKNOWN,
            PLACED: to(RESERVED),
            RESERVED: _REPEAT,
            CONFIRMED: ignore("the payment was consumed first"),
            REJECTED: ignore("the declined payment was consumed first"),
            CANCELLED: _UNDONE,
        },
        "StockRejected": {
            NONE: _UNKNOWN,
            PLACED: to(REJECTED),
            RESERVED: _CONTRADICTION,
            CONFIRMED: _CONTRADICTION,
            REJECTED: _REPEAT,
            CANCELLED: _UNDONE,
        },
        "PaymentCaptured": {
            NONE: _UNKNOWN,
            PLACED: to(CONFIRMED),
            RESERVED: to(CONFIRMED),
            CONFIRMED: _REPEAT,
            REJECTED: _CONTRADICTION,
            CANCELLED: _UNDONE,
        },
        "PaymentDeclined": {
            NONE: _UNKNOWN,
            PLACED: to(REJECTED),
            RESERVED: to(REJECTED),
            CONFIRMED: _CONTRADICTION,
            REJECTED: _REPEAT,
            CANCELLED: _UNDONE,
        },
        CANCEL: {
            NONE: refuse("there is no such order"),
            PLACED: to(CANCELLED),
            RESERVED: to(CANCELLED),
            CONFIRMED: refuse("it is paid and confirmed"),
            REJECTED: refuse("it was rejected"),
            CANCELLED: ignore("it is cancelled already"),
        },
    },
)


def reserved(event: StockReserved, session: Session) -> Iterable[Event]:
    """The stock is there: now the price is known, and the payment service is at work."""
    order = session.lock(Order, event.order_id)
    if ORDER.ignores(order, "StockReserved") or order is None:
        return ()
    ORDER.move(order, "StockReserved", RESERVED)
    order.amount, order.currency = event.amount, event.currency
    return ()


def paid(event: PaymentCaptured, session: Session) -> Iterable[Event]:
    """The money is taken, so the stock was reserved: the order is confirmed, even if that news is still on its way."""
    order = session.lock(Order, event.order_id)
    if ORDER.ignores(order, "PaymentCaptured") or order is None:
        return ()
    ORDER.move(order, "PaymentCaptured", CONFIRMED)
    order.amount, order.currency = event.amount, event.currency
    return (OrderConfirmed(order_id=order.id, amount=event.amount, currency=event.currency),)


def refused(event: StockRejected | PaymentDeclined, session: Session) -> Iterable[Event]:
    """No stock or no money: the order comes to nothing."""
    order, name = session.lock(Order, event.order_id), type(event).__name__
    if ORDER.ignores(order, name) or order is None:
        return ()
    ORDER.move(order, name, REJECTED)
    order.reason = event.reason
    return (OrderRejected(order_id=order.id, reason=event.reason),)


def cancel(order: Order) -> Iterable[Event]:
    """The customer cancels. Raises `Reject` when it is too late."""
    if ORDER.ignores(order, CANCEL):
        return ()
    ORDER.move(order, CANCEL, CANCELLED)
    return (OrderCancelled(order_id=order.id),)


_order = Read(Order, lambda event, _: (event.order_id,))

SERVICE = Service(
    name="order",
    routes=(
        on(StockReserved, reserved, _order),
        on(StockRejected, refused, _order),
        on(PaymentCaptured, paid, _order),
        on(PaymentDeclined, refused, _order),
    ),
    publishes=(OrderPlaced, OrderConfirmed, OrderRejected, OrderCancelled),
)
