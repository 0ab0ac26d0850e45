"""The inventory service's HTTP API."""

from typing import Annotated

from pydantic import Field

from services.inventory.models import Stock
from shared import Currency, Id, Quantity
from shared.http import Created, Problem, RequestBody, ResponseBody, Router, Transaction

router = Router(scope="stock")

RECEIVED_MAX = 1_000_000_000_000  # of one item, ever; far below what the columns hold


class SetStock(RequestBody, example={"price": 450, "currency": "EUR"}):
    """What an item costs from now on; reservations keep the price that they were made at."""

    price: Annotated[int, Field(ge=1, le=1_000_000_000, description="minor units")]
    currency: Currency


class ReceiveStock(RequestBody, example={"quantity": 100}):
    """Items that came in."""

    quantity: Quantity


class StockResponse(ResponseBody, of=Stock):
    """An item as it stands: received = available + reserved + sold."""

    sku: str
    price: Annotated[int, Field(description="minor units")]
    currency: str
    available: int
    reserved: int
    sold: int
    received: int


@router.put("/stock/{sku}")
def set_stock(sku: Id, asked: SetStock, session: Transaction) -> StockResponse | Created[StockResponse]:
    """Introduce an item, or change its price."""
    item, created = session.lock_or_add(Stock(sku=sku, **asked.model_dump()))
    item.price, item.currency = asked.price, asked.currency
    return Created(StockResponse.of(item)) if created else StockResponse.of(item)


@router.post("/stock/{sku}/receipts")
def receive_stock(sku: Id, asked: ReceiveStock, session: Transaction) -> Created[StockResponse]:
    """Receive items: they are available at once."""
    item = session.lock_or_404(Stock, sku)
    if item.received + asked.quantity > RECEIVED_MAX:
        raise Problem(409, f"no more than {RECEIVED_MAX} of {sku} can ever be received")
    item.received += asked.quantity
    item.available += asked.quantity
    return Created(StockResponse.of(item))


@router.get("/stock/{sku}")
def get_stock(sku: Id, session: Transaction) -> StockResponse:
    """Return one item."""
    return StockResponse.of(session.get_or_404(Stock, sku))
