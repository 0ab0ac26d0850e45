"""What the inventory service publishes, and its own view of what it consumes: it imports no other service, and reads
only the fields it needs.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from shared.events import Event

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")]
"""Of an order, an account, a stock item. No character of it needs quoting in a URL, a log or a shell."""
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
AMOUNT_MAX = 1_000_000_000_000_000
"""Below 2^53, so that every JSON reader gives the same number."""
Money = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
"""Whole minor units."""
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
Reason = Annotated[str, Meta(min_length=1, max_length=64)]


class OrderEvent(Event, frozen=True, kw_only=True):
    """An event about one order, and keyed by it."""

    order_id: Id

    @property
    def key(self) -> str:
        """The order: all events of one order stay in order."""
        return self.order_id


class StockReserved(OrderEvent, frozen=True, kw_only=True):
    """All lines of the order are reserved. Carries all that the payment needs: who pays how much."""

    topic: ClassVar[str] = "inventory.events"
    account: Id
    amount: Money
    currency: Currency


class StockRejected(OrderEvent, frozen=True, kw_only=True):
    """Nothing is reserved: all lines or none."""

    topic: ClassVar[str] = "inventory.events"
    reason: Reason


class StockReleased(OrderEvent, frozen=True, kw_only=True):
    """What was reserved, or even sold, is available again."""

    topic: ClassVar[str] = "inventory.events"


class StockSold(OrderEvent, frozen=True, kw_only=True):
    """What was reserved is sold."""

    topic: ClassVar[str] = "inventory.events"


class Line(Struct, frozen=True):
    """How many of what."""

    sku: Id
    quantity: Quantity


class OrderPlaced(OrderEvent, frozen=True, kw_only=True):
    """Consumed: somebody ordered."""

    topic: ClassVar[str] = "order.events"
    account: Id
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=100)]


class OrderCancelled(OrderEvent, frozen=True, kw_only=True):
    """Consumed: the customer cancelled; whatever was taken goes back."""

    topic: ClassVar[str] = "order.events"


class PaymentCaptured(OrderEvent, frozen=True, kw_only=True):
    """Consumed: the money is taken."""

    topic: ClassVar[str] = "payment.events"


class PaymentDeclined(OrderEvent, frozen=True, kw_only=True):
    """Consumed: no money is taken."""

    topic: ClassVar[str] = "payment.events"
