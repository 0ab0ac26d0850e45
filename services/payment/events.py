"""The events that the payment service publishes, and its view of those it consumes: only the fields it needs."""

from shared import Currency, Event, Id, Money, Reason


class OrderEvent(Event, key="order_id"):
    """An event about one order: all events of one order stay in order."""

    order_id: Id


class PaymentCaptured(OrderEvent, topic="payment.events"):
    """The money is taken from the account."""

    account: Id
    amount: Money
    currency: Currency


class PaymentDeclined(OrderEvent, topic="payment.events"):
    """No money is taken."""

    reason: Reason


class PaymentRefunded(OrderEvent, topic="payment.events"):
    """What was taken is back in the account."""

    account: Id
    amount: Money
    currency: Currency


class StockReserved(OrderEvent, topic="inventory.events"):
    """Consumed: the stock is reserved; this account pays this amount."""

    account: Id
    amount: Money
    currency: Currency


class OrderCancelled(OrderEvent, topic="order.events"):
    """Consumed: the customer cancelled; what was taken goes back."""


class OrderTimedOut(OrderEvent, topic="order.events"):
    """Consumed: the order was not decided in time; what was taken goes back."""
