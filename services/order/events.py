"""The events that the order service publishes, and its view of those it consumes: only the fields it needs."""

from typing import Annotated

from msgspec import Meta, Struct

from shared import Currency, Event, Id, Money, Quantity, Reason


class OrderEvent(Event, key="order_id"):
    """An event about one order: all events of one order stay in order."""

    order_id: Id


class Line(Struct, frozen=True):
    """How many of what."""

    sku: Id
    quantity: Quantity


class OrderPlaced(OrderEvent, topic="order.events"):
    """A customer ordered. `lines` name each SKU once."""

    account: Id
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=100)]


class OrderConfirmed(OrderEvent, topic="order.events"):
    """The order is paid; it can no longer be cancelled."""

    amount: Money
    currency: Currency


class OrderRejected(OrderEvent, topic="order.events"):
    """The order came to nothing: no stock, or no money."""

    reason: Reason


class OrderCancelled(OrderEvent, topic="order.events"):
    """The customer cancelled before the order was confirmed: stock and money go back."""


class OrderTimedOut(OrderEvent, topic="order.events"):
    """The order was not decided within its time, and is rejected: stock and money go back."""


class PaymentOverdue(OrderEvent, topic="order.deadlines"):
    """Scheduled when the order is placed, and cancelled when it is decided: its time is over."""


class StockReserved(OrderEvent, topic="inventory.events"):
    """Consumed: all lines are reserved, for this amount."""

    amount: Money
    currency: Currency


class StockRejected(OrderEvent, topic="inventory.events"):
    """Consumed: nothing is reserved."""

    reason: Reason


class PaymentCaptured(OrderEvent, topic="payment.events"):
    """Consumed: the money is taken."""

    amount: Money
    currency: Currency


class PaymentDeclined(OrderEvent, topic="payment.events"):
    """Consumed: no money is taken."""

    reason: Reason
