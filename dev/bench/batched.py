"""The inventory service with a batch handler for its orders: the same rows and events as the handler of one event, from
one statement for all orders of a batch. `python -m dev.bench.batched worker` is a worker of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from sqlalchemy import insert

from services.inventory.events import OrderPlaced, StockRejected, StockReserved
from services.inventory.handlers import REJECTED, RESERVED
from services.inventory.models import Reservation, Stock
from shared import MONEY_MAX, Service, Session, lock
from shared.command import main
from shared.container import ServiceContainer, containers, providers

service = Service("inventory", publishes=(StockReserved, StockRejected))

NOT_RESERVED: Mapping[str, object] = {"amount": None, "currency": None, "reason": None, "was_sold": False}
OrderedStock = Annotated[Mapping[str, Stock], lock(by=lambda event: {line.sku for line in event.lines})]


@service.on_batch(OrderPlaced)
def reserve(
    events: Sequence[OrderPlaced], session: Session, known: Mapping[str, Reservation], stock: OrderedStock
) -> Iterable[tuple[OrderPlaced, StockReserved | StockRejected]]:
    """Reserve all lines of each order or none, in their order."""
    available = {sku: item.available for sku, item in stock.items()}
    rows: dict[str, dict[str, object]] = {}
    for event in events:
        if event.order_id in known or event.order_id in rows:
            continue
        wanted: Counter[str] = Counter()
        for line in event.lines:
            wanted[line.sku] += line.quantity
        row = rows[event.order_id] = {"order_id": event.order_id, "lines": wanted, **NOT_RESERVED}
        items = [stock[sku] for sku in wanted if sku in stock]
        amount = sum(item.price * wanted[item.sku] for item in items)
        if reason := _why_not(wanted, items, available, amount):
            row["state"], row["reason"] = REJECTED, reason
            yield event, StockRejected(order_id=event.order_id, reason=reason)
            continue
        for sku, quantity in wanted.items():
            available[sku] -= quantity
        currency = items[0].currency
        row["state"], row["amount"], row["currency"] = RESERVED, amount, currency
        yield event, StockReserved(order_id=event.order_id, account=event.account, amount=amount, currency=currency)
    for sku, item in stock.items():
        item.reserved += item.available - available[sku]
        item.available = available[sku]
    if rows:
        session.execute(insert(Reservation), list(rows.values()))


def _why_not(wanted: Counter[str], items: Sequence[Stock], available: Mapping[str, int], amount: int) -> str | None:
    if len(items) < len(wanted):
        return "UNKNOWN_SKU"
    if len({item.currency for item in items}) > 1:
        return "MIXED_CURRENCIES"
    if any(available[sku] < quantity for sku, quantity in wanted.items()):
        return "OUT_OF_STOCK"
    return "AMOUNT_TOO_LARGE" if amount > MONEY_MAX else None


@containers.copy(ServiceContainer)
class BatchedContainer(ServiceContainer):
    service = providers.Object(service)
    routes = providers.Object("services.inventory.api:router")


if __name__ == "__main__":
    main(BatchedContainer)
