"""What the payment service publishes, and its own view of what it consumes: it imports no other service, and reads only
the fields it needs.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from shared.events import Event

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")]
"""Of an order or an account. No character of it needs quoting in a URL, a log or a shell."""
Money = Annotated[int, Meta(ge=1, le=1_000_000_000_000_000)]
"""Whole minor units; below 2^53, so that every JSON reader gives the same number."""
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
Reason = Annotated[str, Meta(min_length=1, max_length=64)]


class OrderEvent(Event, frozen=True, kw_only=True):
    """An event about one order, and keyed by it."""

    order_id: Id

    @property
    def key(self) -> str:
        """The order: all events of one order stay in order."""
        return self.order_id


class PaymentCaptured(OrderEvent, frozen=True, kw_only=True):
    """The money is taken from the account."""

    topic: ClassVar[str] = "payment.events"
    account: Id
    amount: Money
    currency: Currency


class PaymentDeclined(OrderEvent, frozen=True, kw_only=True):
    """No money is taken."""

    topic: ClassVar[str] = "payment.events"
    reason: Reason


class PaymentRefunded(OrderEvent, frozen=True, kw_only=True):
    """What was taken is back in the account."""

    topic: ClassVar[str] = "payment.events"
    account: Id
    amount: Money
    currency: Currency


class StockReserved(OrderEvent, frozen=True, kw_only=True):
    """Consumed: the stock is there; this account is to pay this amount."""

    topic: ClassVar[str] = "inventory.events"
    account: Id
    amount: Money
    currency: Currency


class OrderCancelled(OrderEvent, frozen=True, kw_only=True):
    """Consumed: the customer cancelled; whatever was taken goes back."""

    topic: ClassVar[str] = "order.events"
