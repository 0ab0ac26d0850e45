"""The order service's HTTP API."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from uuid_utils import uuid7

from services.order import events
from services.order.handlers import PLACED, cancel
from services.order.models import Order, OrderLine, OrderState
from shared.http.call import ApiResponse, CurrentCall, Route
from shared.http.problems import Problem, documented
from shared.session import Session

router = APIRouter(route_class=Route, tags=["orders"])

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
ORDER_ID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
OrderId = Annotated[str, Path(pattern=ORDER_ID)]


class Line(BaseModel):
    """How many of what."""

    model_config = ConfigDict(strict=True, extra="forbid")

    sku: Name
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


class PlaceOrder(BaseModel):
    """What to order, and who pays."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"example": {"account": "ada", "lines": [{"sku": "tea-250g", "quantity": 2}]}},
    )

    account: Name
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _each_sku_once(self) -> Self:
        """Two lines of one SKU are as likely a mistake as a wish: refused, not merged."""
        if len({line.sku for line in self.lines}) < len(self.lines):
            raise ValueError("each SKU may be in one line only")
        return self


class OrderResponse(BaseModel):
    """An order as it stands."""

    id: str
    account: str
    state: OrderState
    lines: list[Line]
    amount: Annotated[int | None, Field(description="minor units; known when the stock is reserved")]
    currency: str | None
    reason: Annotated[str | None, Field(description="why it was rejected")]
    placed_at: datetime


class OrdersResponse(BaseModel):
    """A page of orders, newest first."""

    orders: list[OrderResponse]
    next: Annotated[str | None, Field(description="`after` of the next page; null: this is the last one")]


@router.post("/orders", status_code=201, response_model=OrderResponse, responses=documented(400, 409, 415))
def place_order(body: PlaceOrder, call: CurrentCall) -> Response:
    """Place an order. It is decided later; follow `Location`."""

    def work(session: Session) -> ApiResponse:
        order = Order(id=str(uuid7()), account=body.account, state=PLACED)
        session.add(order)
        lines = [
            OrderLine(order_id=order.id, number=number, sku=line.sku, quantity=line.quantity)
            for number, line in enumerate(body.lines, 1)
        ]
        session.add_all(lines)
        ordered = tuple(events.Line(line.sku, line.quantity) for line in body.lines)
        call.publish(session, events.OrderPlaced(order_id=order.id, account=order.account, lines=ordered))
        session.flush()
        return ApiResponse(201, _response(order, lines), f"/orders/{order.id}")

    return call.once(work)


@router.get("/orders/{order_id}", responses=documented(404))
def get_order(order_id: OrderId, call: CurrentCall) -> OrderResponse:
    """Return one order."""
    with call.transaction() as session:
        order = session.get(Order, order_id)
        if order is None:
            raise Problem(404, f"there is no order {order_id}")
        return _responses(session, [order])[0]


@router.get("/orders")
def list_orders(
    call: CurrentCall,
    state: OrderState | None = None,
    after: Annotated[str | None, Query(pattern=ORDER_ID, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> OrdersResponse:
    """Return orders, newest first; orders that come meanwhile shift no page."""
    wanted = select(Order).order_by(Order.id.desc()).limit(limit + 1)
    if state is not None:
        wanted = wanted.where(Order.state == state)
    if after is not None:
        wanted = wanted.where(Order.id < after)
    with call.transaction() as session:
        found = list(session.scalars(wanted))
        page = found[:limit]
        return OrdersResponse(orders=_responses(session, page), next=page[-1].id if len(found) > limit else None)


@router.post("/orders/{order_id}/cancel", response_model=OrderResponse, responses=documented(400, 404, 409))
def cancel_order(order_id: OrderId, call: CurrentCall) -> Response:
    """Cancel an order; 409 when it is confirmed or rejected already. Stock and money go back, whatever had happened."""

    def work(session: Session) -> ApiResponse:
        order = session.lock(Order, order_id)
        if order is None:
            raise Problem(404, f"there is no order {order_id}")
        for event in cancel(order):
            call.publish(session, event)
        return ApiResponse(200, _responses(session, [order])[0])

    return call.once(work)


def _responses(session: Session, orders: list[Order]) -> list[OrderResponse]:
    ids = [order.id for order in orders]
    lines: dict[str, list[OrderLine]] = {order_id: [] for order_id in ids}
    found = select(OrderLine).where(OrderLine.order_id.in_(ids)).order_by(OrderLine.order_id, OrderLine.number)
    for line in session.scalars(found):
        lines[line.order_id].append(line)
    return [_response(order, lines[order.id]) for order in orders]


def _response(order: Order, lines: list[OrderLine]) -> OrderResponse:
    return OrderResponse(
        id=order.id,
        account=order.account,
        state=OrderState(order.state),
        lines=[Line(sku=line.sku, quantity=line.quantity) for line in lines],
        amount=order.amount,
        currency=order.currency,
        reason=order.reason,
        placed_at=order.placed_at,
    )
