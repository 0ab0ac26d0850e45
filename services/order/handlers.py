"""What the order service does about each event.

The order's own row decides the saga: it is confirmed by the payment, cancelled by the customer, or rejected because its
time is over, depending on which transaction commits first, and never two of them. `OrderCancelled` is published if and
only if the order is CANCELLED, and `OrderTimedOut` if and only if its time was over; when the other services consume
one of them, they undo what they did.
"""

from typing import Annotated

from services.order.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderTimedOut,
    PaymentCaptured,
    PaymentDeclined,
    PaymentOverdue,
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
            REJECTED: ignore("the declined payment was consumed first, or its time was over"),
        },
        StockRejected: {
            PLACED: to(REJECTED),
            (RESERVED, CONFIRMED): _CONTRADICTION,
            REJECTED: ignore("its time was over first, or a duplicate"),
        },
        PaymentCaptured: {
            (PLACED, RESERVED): to(CONFIRMED),
            CONFIRMED: DUPLICATE,
            REJECTED: ignore("its time was over first; the payment service refunds it"),
        },
        PaymentDeclined: {
            (PLACED, RESERVED): to(REJECTED),
            CONFIRMED: _CONTRADICTION,
            REJECTED: ignore("its time was over first, or a duplicate"),
        },
        PaymentOverdue: {
            NONE: refuse("it is this service that began the order"),
            (PLACED, RESERVED): to(REJECTED),
            (CONFIRMED, REJECTED, CANCELLED): ignore("it was decided when its time was over"),
        },
        CANCEL: {
            NONE: refuse("there is no such order"),
            (PLACED, RESERVED): to(CANCELLED),
            CONFIRMED: refuse("it is paid and confirmed"),
            REJECTED: refuse("it was rejected"),
            CANCELLED: ignore("it is cancelled already"),
        },
    },
)

service = Service(
    "order", publishes=(OrderPlaced, OrderConfirmed, OrderRejected, OrderCancelled, OrderTimedOut, PaymentOverdue)
)

ItsOrder = Annotated[Order, lock(by="order_id")]


@service.on(StockReserved, ORDER)
def reserved(event: StockReserved, order: ItsOrder) -> None:
    """The stock is reserved: the price is known now, and the payment is under way."""
    order.amount, order.currency = event.amount, event.currency


@service.on(PaymentCaptured, ORDER)
def paid(event: PaymentCaptured, order: ItsOrder, session: Session) -> OrderConfirmed:
    """The money is taken, so the stock was reserved: the order is confirmed, even if that news is still on its way."""
    session.cancel(deadline_of(order))
    order.amount, order.currency = event.amount, event.currency
    return OrderConfirmed(order_id=order.id, amount=event.amount, currency=event.currency)


@service.on(StockRejected, PaymentDeclined, ORDER)
def refused(event: StockRejected | PaymentDeclined, order: ItsOrder, session: Session) -> OrderRejected:
    """No stock or no money: the order comes to nothing."""
    session.cancel(deadline_of(order))
    order.reason = event.reason
    return OrderRejected(order_id=order.id, reason=event.reason)


@service.on(PaymentOverdue, ORDER)
def time_out(_event: PaymentOverdue, order: ItsOrder) -> OrderTimedOut:
    """Its time is over: the order comes to nothing, whatever the others may still say."""
    order.reason = "PAYMENT_TIMED_OUT"
    return OrderTimedOut(order_id=order.id)


def deadline_of(order: Order) -> str:
    """Return the name under which the order's deadline is scheduled."""
    return f"payment-overdue:{order.id}"


def cancel(order: Order, session: Session) -> None:
    """Cancel an order that is locked. Raises `Reject` when it is too late."""
    if ORDER.move(order, CANCEL):
        session.cancel(deadline_of(order))
        session.publish(OrderCancelled(order_id=order.id))
