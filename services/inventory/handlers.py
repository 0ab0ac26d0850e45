"""What the inventory service does about each event.

A reservation is sold when its payment is captured, and released when the payment is declined, the order is cancelled or
its time is over. A cancellation, or the end of its time, that overtakes an order leaves a CANCELLED row, so that the
late `OrderPlaced` reserves nothing.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from services.inventory.events import (
    OrderCancelled,
    OrderPlaced,
    OrderTimedOut,
    PaymentCaptured,
    PaymentDeclined,
    StockRejected,
    StockReleased,
    StockReserved,
    StockSold,
)
from services.inventory.models import Reservation, ReservationState, Stock
from shared import DUPLICATE, MONEY_MAX, NONE, Machine, Service, Session, ignore, lock, refuse, to

RESERVED = ReservationState.RESERVED
REJECTED = ReservationState.REJECTED
SOLD = ReservationState.SOLD
RELEASED = ReservationState.RELEASED
CANCELLED = ReservationState.CANCELLED

_UNREQUESTED = refuse("no payment is requested before the stock is reserved")

RESERVATION = Machine(
    Reservation,
    ReservationState,
    {
        OrderPlaced: {
            NONE: to(RESERVED, REJECTED),
            (RESERVED, REJECTED, SOLD, RELEASED): DUPLICATE,
            CANCELLED: ignore("it was a dead letter, and cancelled before it was redriven"),
        },
        PaymentCaptured: {
            (NONE, REJECTED, CANCELLED): _UNREQUESTED,
            RESERVED: to(SOLD),
            SOLD: DUPLICATE,
            RELEASED: ignore("cancelled or out of time first; the payment service refunds it"),
        },
        PaymentDeclined: {
            (NONE, REJECTED, CANCELLED): _UNREQUESTED,
            RESERVED: to(RELEASED),
            SOLD: refuse("the payment service contradicts itself"),
            RELEASED: ignore("cancelled or out of time first, or a duplicate"),
        },
        (OrderCancelled, OrderTimedOut): {
            NONE: to(CANCELLED),
            RESERVED: to(RELEASED),
            REJECTED: ignore("nothing was reserved"),
            SOLD: to(RELEASED),
            RELEASED: ignore("the payment was declined first"),
            CANCELLED: DUPLICATE,
        },
    },
)

service = Service("inventory", publishes=(StockReserved, StockRejected, StockReleased, StockSold))

# Every handler locks reservations before items, so two workers never deadlock.
OrderedStock = Annotated[Mapping[str, Stock], lock(by=lambda event: {line.sku for line in event.lines})]
ReservedStock = Annotated[Mapping[str, Stock], lock(by=lambda _, reservation: reservation.lines)]


@service.on(OrderPlaced, RESERVATION)
def reserve(event: OrderPlaced, session: Session, stock: OrderedStock) -> StockReserved | StockRejected:
    """Reserve all lines or none, at today's prices."""
    wanted: Counter[str] = Counter()
    for line in event.lines:  # the topic's contract lets lines repeat a SKU; the sum counts
        wanted[line.sku] += line.quantity
    amount = sum(item.price * wanted[sku] for sku, item in stock.items())
    session.add(reservation := Reservation(order_id=event.order_id, lines=dict(wanted)))
    if reason := _why_not(wanted, stock, amount):
        reservation.state, reservation.reason = REJECTED, reason
        return StockRejected(order_id=event.order_id, reason=reason)
    for sku, item in stock.items():
        item.available -= wanted[sku]
        item.reserved += wanted[sku]
    currency = next(iter(stock.values())).currency
    reservation.state, reservation.amount, reservation.currency = RESERVED, amount, currency
    return StockReserved(order_id=event.order_id, account=event.account, amount=amount, currency=currency)


@service.on(PaymentCaptured, RESERVATION)
def sell(event: PaymentCaptured, reservation: Reservation, stock: ReservedStock) -> StockSold:
    """The money is taken: what was reserved is sold."""
    for sku, quantity in reservation.lines.items():
        stock[sku].reserved -= quantity
        stock[sku].sold += quantity
    reservation.was_sold = True
    return StockSold(order_id=event.order_id)


@service.on(PaymentDeclined, OrderCancelled, OrderTimedOut, RESERVATION)
def release(
    event: PaymentDeclined | OrderCancelled | OrderTimedOut,
    session: Session,
    reservation: Reservation | None,
    stock: ReservedStock,
) -> StockReleased | None:
    """There will be no sale, or a sale is undone: what was taken is available again."""
    if reservation is None:
        session.add(Reservation(order_id=event.order_id, state=CANCELLED, lines={}))
        return None
    for sku, quantity in reservation.lines.items():
        if reservation.state == SOLD:
            stock[sku].sold -= quantity
        else:
            stock[sku].reserved -= quantity
        stock[sku].available += quantity
    return StockReleased(order_id=event.order_id)


def _why_not(wanted: Counter[str], stock: Mapping[str, Stock], amount: int) -> str | None:
    if len(stock) < len(wanted):
        return "UNKNOWN_SKU"
    if len({item.currency for item in stock.values()}) > 1:
        return "MIXED_CURRENCIES"
    if any(item.available < wanted[sku] for sku, item in stock.items()):
        return "OUT_OF_STOCK"
    return "AMOUNT_TOO_LARGE" if amount > MONEY_MAX else None
