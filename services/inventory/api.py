"""The inventory service's HTTP API."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert

from services.inventory.models import Stock
from shared.http.call import ApiResponse, CurrentCall, Route
from shared.http.problems import Problem, documented
from shared.session import Session

router = APIRouter(route_class=Route, tags=["stock"])

Sku = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
RECEIVED_MAX = 1_000_000_000_000
"""Of one item, ever; far below what the columns hold."""


class SetStock(BaseModel):
    """What an item costs from now on; reservations keep the price that they were made at."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"example": {"price": 450, "currency": "EUR"}}
    )

    price: Annotated[int, Field(ge=1, le=1_000_000_000, description="minor units")]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]


class ReceiveStock(BaseModel):
    """Items that came in."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"example": {"quantity": 100}})

    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


class StockResponse(BaseModel):
    """An item as it stands: received = available + reserved + sold."""

    sku: str
    price: Annotated[int, Field(description="minor units")]
    currency: str
    available: int
    reserved: int
    sold: int
    received: int


@router.put("/stock/{sku}", responses={201: {"model": StockResponse, "description": "Created"}, **documented(415)})
def set_stock(sku: Sku, body: SetStock, call: CurrentCall, response: Response) -> StockResponse:
    """Introduce an item, or change its price."""
    new = insert(Stock).values(sku=sku, **body.model_dump(), available=0, reserved=0, sold=0, received=0)
    with call.transaction() as session:
        created = session.execute(new.on_conflict_do_nothing().returning(Stock.sku)).scalar_one_or_none()
        item = _lock(session, sku)
        item.price, item.currency = body.price, body.currency
        response.status_code = 201 if created else 200
        return _response(item)


@router.post(
    "/stock/{sku}/receipts", status_code=201, response_model=StockResponse, responses=documented(400, 404, 409, 415)
)
def receive_stock(sku: Sku, body: ReceiveStock, call: CurrentCall) -> Response:
    """Receive items: they are available at once."""

    def work(session: Session) -> ApiResponse:
        item = _lock(session, sku)
        if item.received + body.quantity > RECEIVED_MAX:
            raise Problem(409, f"no more than {RECEIVED_MAX} of {sku} can ever be received")
        item.received += body.quantity
        item.available += body.quantity
        return ApiResponse(201, _response(item))

    return call.once(work)


@router.get("/stock/{sku}", responses=documented(404))
def get_stock(sku: Sku, call: CurrentCall) -> StockResponse:
    """Return one item."""
    with call.transaction() as session:
        item = session.get(Stock, sku)
        if item is None:
            raise Problem(404, f"there is no item {sku}")
        return _response(item)


def _lock(session: Session, sku: str) -> Stock:
    item = session.lock(Stock, sku)
    if item is None:
        raise Problem(404, f"there is no item {sku}")
    return item


def _response(item: Stock) -> StockResponse:
    return StockResponse(
        sku=item.sku,
        price=item.price,
        currency=item.currency,
        available=item.available,
        reserved=item.reserved,
        sold=item.sold,
        received=item.received,
    )
