"""Rules between the tables and the topics, written down a second time: nothing here imports a service.

The state of an order's row in a service says exactly which events that service has published about it, and in which
order. So one comparison finds what is missing, duplicated, unexpected, or out of order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dev.balance.sheet import Offenders

SERVICES = ("order", "inventory", "payment")
CONSUMED_TOPICS: Mapping[str, tuple[str, ...]] = {
    "order": ("inventory.events", "order.deadlines", "payment.events"),
    "inventory": ("order.events", "payment.events"),
    "payment": ("inventory.events", "order.events"),
}
TOPICS = ("order.events", "inventory.events", "payment.events")

FINAL = frozenset({"CONFIRMED", "REJECTED", "TIMED OUT", "CANCELLED"})

# By topic and by the state of the row: a reservation sold before its release is RETURNED, and an order rejected by its
# deadline is TIMED OUT.
PUBLISHES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "order.events": {
        "PLACED": ("OrderPlaced",),
        "RESERVED": ("OrderPlaced",),
        "CONFIRMED": ("OrderPlaced", "OrderConfirmed"),
        "REJECTED": ("OrderPlaced", "OrderRejected"),
        "TIMED OUT": ("OrderPlaced", "OrderTimedOut"),
        "CANCELLED": ("OrderPlaced", "OrderCancelled"),
    },
    "inventory.events": {
        "RESERVED": ("StockReserved",),
        "REJECTED": ("StockRejected",),
        "SOLD": ("StockReserved", "StockSold"),
        "RELEASED": ("StockReserved", "StockReleased"),
        "RETURNED": ("StockReserved", "StockSold", "StockReleased"),
        "CANCELLED": (),
    },
    "payment.events": {
        "CAPTURED": ("PaymentCaptured",),
        "DECLINED": ("PaymentDeclined",),
        "REFUNDED": ("PaymentCaptured", "PaymentRefunded"),
        "CANCELLED": (),
    },
}

# What the three services may have made of one order, in the end; `-` stands for no row.
AGREED = frozenset(
    {
        ("CONFIRMED", "SOLD", "CAPTURED"),
        ("REJECTED", "REJECTED", "-"),
        ("REJECTED", "RELEASED", "DECLINED"),
        # Cancelled by the customer, at any moment.
        ("CANCELLED", "CANCELLED", "CANCELLED"),  # ... before any service knew of the order
        ("CANCELLED", "REJECTED", "CANCELLED"),  # ... there had been no stock anyway
        ("CANCELLED", "RELEASED", "CANCELLED"),  # ... before the payment
        ("CANCELLED", "RELEASED", "DECLINED"),  # ... there had been no money anyway
        ("CANCELLED", "RELEASED", "REFUNDED"),  # ... after the payment, before the sale
        ("CANCELLED", "RETURNED", "REFUNDED"),  # ... after the sale
        # Rejected by its deadline, at any moment: the same.
        ("TIMED OUT", "CANCELLED", "CANCELLED"),
        ("TIMED OUT", "REJECTED", "CANCELLED"),
        ("TIMED OUT", "RELEASED", "CANCELLED"),
        ("TIMED OUT", "RELEASED", "DECLINED"),
        ("TIMED OUT", "RELEASED", "REFUNDED"),
        ("TIMED OUT", "RETURNED", "REFUNDED"),
    }
)


class Order(NamedTuple):
    """One order, as the three services have it; `-` where a service has no row."""

    id: str
    order: str
    reservation: str
    payment: str
    amounts: frozenset[tuple[int, str]]
    """The amounts that the services have, with their currency: at most one, if they agree."""
    same_lines: bool
    """Whether what was ordered is what was reserved; true if there is nothing to compare."""
    net: int
    """Captured - refunded, by the ledger."""

    def state(self, topic: str) -> str:
        """Return the state that decides what was published on `topic`."""
        return {"order.events": self.order, "inventory.events": self.reservation, "payment.events": self.payment}[topic]


def unpaid(order: Order) -> str | None:
    """Describe how the ledger contradicts the order; None if it does not: a confirmed order is paid, any other is
    not.
    """
    due = max((amount for amount, _ in order.amounts), default=0) if order.order == "CONFIRMED" else 0
    return None if order.net == due else f"{order.order}, due {due}, captured - refunded {order.net}"


def disagreement(order: Order) -> str | None:
    """Describe how the three services contradict each other; None if they do not."""
    if (order.order, order.reservation, order.payment) not in AGREED:
        return f"order {order.order}, reservation {order.reservation}, payment {order.payment}"
    if len(order.amounts) > 1:
        return "different amounts: " + ", ".join(f"{amount} {currency}" for amount, currency in sorted(order.amounts))
    return None if order.same_lines else "what is reserved is not what was ordered"


class Found(NamedTuple):
    """What a topic has about one key."""

    types: tuple[str, ...]
    """In the order of the records, without repeats of the same event."""
    partitions: frozenset[int]


NOTHING_FOUND = Found((), frozenset())


@dataclass
class Deviations:
    """How a topic differs from what its service must have published: the keys, by kind."""

    missing: Offenders = field(default_factory=Offenders)
    twice: Offenders = field(default_factory=Offenders)
    """The same thing published again, as another event."""
    unexpected: Offenders = field(default_factory=Offenders)
    out_of_order: Offenders = field(default_factory=Offenders)
    """Also a key whose records are in more than one partition: there they have no order."""


def compare(key: str, expected: Sequence[str], found: Found, into: Deviations) -> None:
    """Note how `found` differs from `expected`."""
    wanted, seen = Counter(expected), Counter(found.types)
    if wanted == seen:
        if tuple(expected) != found.types or len(found.partitions) > 1:
            into.out_of_order.add(f"{key} {', '.join(found.types)} in partitions {sorted(found.partitions)}")
        return
    for event_type in wanted | seen:
        if seen[event_type] < wanted[event_type]:
            into.missing.add(f"{key} {event_type}")
        elif wanted[event_type] == 0 < seen[event_type]:
            into.unexpected.add(f"{key} {event_type}")
        elif seen[event_type] > wanted[event_type]:
            into.twice.add(f"{key} {event_type}")
