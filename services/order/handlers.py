"""What the order service does about each event.

The order's own row decides the saga: it is confirmed by the payment or cancelled by the customer, depending on which
transaction commits first, and never both. `OrderCancelled` is published if and only if the order is CANCELLED; when the
other services consume it, they undo what they did.
"""

from typing import Annotated

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
from shared import DUPLICATE, NONE, Command, Machine, Service, Session, ignore, lock, refuse, to

PLACED = OrderState.PLACED
RESERVED = OrderState.RESERVED
CONFIRMED = OrderState.CONFIRMED
REJECTED = OrderState.REJECTED
CANCELLED = OrderState.CANCELLED
CANCEL = Command("cancel (HTTP)")

_CONTRADICTION = refuse("the inventory and the payment service contradict each other")

ORDER = Machine(
    Order,
    OrderState,
    {
        (StockReserved, StockRejected, PaymentCaptured, PaymentDeclined): {
            NONE: refuse("it is this service that began the order"),
            CANCELLED: ignore("cancelled first; the others undo it"),
        },
        StockReserved: {
            PLACED: to(RESERVED),
            RESERVED: DUPLICATE,
            CONFIRMED: ignore("the payment was consumed first"),
            REJECTED: ignore("the declined payment was consumed first"),
        },
        StockRejected: {PLACED: to(REJECTED), (RESERVED, CONFIRMED): _CONTRADICTION, REJECTED: DUPLICATE},
        PaymentCaptured: {(PLACED, RESERVED): to(CONFIRMED), CONFIRMED: DUPLICATE, REJECTED: _CONTRADICTION},
        PaymentDeclined: {(PLACED, RESERVED): to(REJECTED), CONFIRMED: _CONTRADICTION, REJECTED: DUPLICATE},
        CANCEL: {
            NONE: refuse("there is no such order"),
            (PLACED, RESERVED): to(CANCELLED),
            CONFIRMED: refuse("it is paid and confirmed"),
            REJECTED: refuse("it was rejected"),
            CANCELLED: ignore("it is cancelled already"),
        },
    },
)

service = Service("order", publishes=(OrderPlaced, OrderConfirmed, OrderRejected, OrderCancelled))

ItsOrder = Annotated[Order, lock(by="order_id")]


@service.on(StockReserved, ORDER)
def reserved(event: StockReserved, order: ItsOrder) -> None:
    """The stock is reserved: the price is known now, and the payment is under way."""
    order.amount, order.currency = event.amount, event.currency


@service.on(PaymentCaptured, ORDER)
def paid(event: PaymentCaptured, order: ItsOrder) -> OrderConfirmed:
    """The money is taken, so the stock was reserved: the order is confirmed, even if that news is still on its way."""
    order.amount, order.currency = event.amount, event.currency
    return OrderConfirmed(order_id=order.id, amount=event.amount, currency=event.currency)


@service.on(StockRejected, PaymentDeclined, ORDER)
def refused(event: StockRejected | PaymentDeclined, order: ItsOrder) -> OrderRejected:
    """No stock or no money: the order comes to nothing."""
    order.reason = event.reason
    return OrderRejected(order_id=order.id, reason=event.reason)


def cancel(order: Order, session: Session) -> None:
    """Cancel an order that is locked. Raises `Reject` when it is too late."""
    if ORDER.move(order, CANCEL):
        session.publish(OrderCancelled(order_id=order.id))
