"""What the order service publishes, and its own view of what it consumes: it imports no other service, and reads only
the fields it needs.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from shared.events import Event

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")]
"""Of an order, an account, a stock item. No character of it needs quoting in a URL, a log or a shell."""
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
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


class Line(Struct, frozen=True):
    """How many of what."""

    sku: Id
    quantity: Quantity


class OrderPlaced(OrderEvent, frozen=True, kw_only=True):
    """A customer ordered. `lines` name each SKU once."""

    topic: ClassVar[str] = "order.events"
    account: Id
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=100)]


class OrderConfirmed(OrderEvent, frozen=True, kw_only=True):
    """The order is paid; it can no longer be cancelled."""

    topic: ClassVar[str] = "order.events"
    amount: Money
    currency: Currency


class OrderRejected(OrderEvent, frozen=True, kw_only=True):
    """The order came to nothing: no stock, or no money."""

    topic: ClassVar[str] = "order.events"
    reason: Reason


class OrderCancelled(OrderEvent, frozen=True, kw_only=True):
    """The customer cancelled before the order was confirmed: stock and money go back."""

    topic: ClassVar[str] = "order.events"


class StockReserved(OrderEvent, frozen=True, kw_only=True):
    """Consumed: all lines are reserved, for this amount."""

    topic: ClassVar[str] = "inventory.events"
    amount: Money
    currency: Currency


class StockRejected(OrderEvent, frozen=True, kw_only=True):
    """Consumed: nothing is reserved."""

    topic: ClassVar[str] = "inventory.events"
    reason: Reason


class PaymentCaptured(OrderEvent, frozen=True, kw_only=True):
    """Consumed: the money is taken."""

    topic: ClassVar[str] = "payment.events"
    amount: Money
    currency: Currency


class PaymentDeclined(OrderEvent, frozen=True, kw_only=True):
    """Consumed: no money is taken."""

    topic: ClassVar[str] = "payment.events"
    reason: Reason
