"""The events that the inventory service publishes, and its view of those it consumes: only the fields it needs."""

from typing import Annotated

from msgspec import Meta, Struct

from shared import Currency, Event, Id, Money, Quantity, Reason


class OrderEvent(Event, key="order_id"):
    """An event about one order: all events of one order stay in order."""

    order_id: Id


class StockReserved(OrderEvent, topic="inventory.events"):
    """All lines of the order are reserved. Carries what the payment needs: who pays how much."""

    account: Id
    amount: Money
    currency: Currency


class StockRejected(OrderEvent, topic="inventory.events"):
    """Nothing is reserved: all lines or none."""

    reason: Reason


class StockReleased(OrderEvent, topic="inventory.events"):
    """What was reserved, or even sold, is available again."""


class StockSold(OrderEvent, topic="inventory.events"):
    """What was reserved is sold."""


class Line(Struct, frozen=True):
    """How many of what."""

    sku: Id
    quantity: Quantity


class OrderPlaced(OrderEvent, topic="order.events"):
    """Consumed: a customer ordered."""

    account: Id
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=100)]


class OrderCancelled(OrderEvent, topic="order.events"):
    """Consumed: the customer cancelled; what was taken goes back."""


class OrderTimedOut(OrderEvent, topic="order.events"):
    """Consumed: the order was not decided in time; what was taken is available again."""


class PaymentCaptured(OrderEvent, topic="payment.events"):
    """Consumed: the money is taken."""


class PaymentDeclined(OrderEvent, topic="payment.events"):
    """Consumed: no money is taken."""
