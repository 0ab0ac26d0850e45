"""The order service's HTTP API."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import Path, Query
from pydantic import Field, model_validator
from sqlalchemy import select
from uuid_utils import uuid7

from services.order import events
from services.order.handlers import PLACED, cancel
from services.order.models import Order, OrderLine, OrderState
from shared import Id, Quantity
from shared.http import Created, RequestBody, ResponseBody, Router, Transaction

router = Router(scope="orders")

ORDER_ID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
OrderId = Annotated[str, Path(pattern=ORDER_ID)]


class Line(RequestBody):
    """How many of what."""

    sku: Id
    quantity: Quantity


class PlaceOrder(RequestBody, example={"account": "ada", "lines": [{"sku": "tea-250g", "quantity": 2}]}):
    """What to order, and who pays."""

    account: Id
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _each_sku_once(self) -> Self:
        """Two lines of one SKU are as likely a mistake as a wish: refused, not merged."""
        if len({line.sku for line in self.lines}) < len(self.lines):
            raise ValueError("each SKU may be in one line only")
        return self


class OrderResponse(ResponseBody, of=Order, given=("lines",)):
    """An order as it stands."""

    id: str
    account: str
    state: OrderState
    lines: list[Line]
    amount: Annotated[int | None, Field(description="minor units; known when the stock is reserved")]
    currency: str | None
    reason: Annotated[str | None, Field(description="why it was rejected")]
    placed_at: datetime


class OrdersResponse(ResponseBody):
    """A page of orders, newest first."""

    orders: list[OrderResponse]
    next: Annotated[str | None, Field(description="`after` of the next page; null: this is the last one")]


@router.post("/orders")
def place_order(asked: PlaceOrder, session: Transaction) -> Created[OrderResponse]:
    """Place an order. It is decided later; follow `Location`."""
    order = Order(id=str(uuid7()), account=asked.account, state=PLACED)
    session.add(order)
    session.add_all(
        OrderLine(order_id=order.id, number=number, sku=line.sku, quantity=line.quantity)
        for number, line in enumerate(asked.lines, 1)
    )
    lines = tuple(events.Line(line.sku, line.quantity) for line in asked.lines)
    session.publish(events.OrderPlaced(order_id=order.id, account=order.account, lines=lines))
    return Created(OrderResponse.of(order, lines=asked.lines), location=f"/orders/{order.id}")


@router.get("/orders/{order_id}")
def get_order(order_id: OrderId, session: Transaction) -> OrderResponse:
    """Return one order."""
    return _answers(session, [session.get_or_404(Order, order_id)])[0]


@router.get("/orders")
def list_orders(
    session: Transaction,
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
    found = list(session.scalars(wanted))
    page = found[:limit]
    return OrdersResponse(orders=_answers(session, page), next=page[-1].id if len(found) > limit else None)


@router.post("/orders/{order_id}/cancel")
def cancel_order(order_id: OrderId, session: Transaction) -> OrderResponse:
    """Cancel an order; 409 when it is confirmed or rejected already. Stock and money go back, if they were taken."""
    order = session.lock_or_404(Order, order_id)
    cancel(order, session)
    return _answers(session, [order])[0]


def _answers(session: Transaction, orders: list[Order]) -> list[OrderResponse]:
    lines: dict[str, list[Line]] = {order.id: [] for order in orders}
    found = select(OrderLine).where(OrderLine.order_id.in_(lines)).order_by(OrderLine.order_id, OrderLine.number)
    for line in session.scalars(found):
        lines[line.order_id].append(Line(sku=line.sku, quantity=line.quantity))
    return [OrderResponse.of(order, lines=lines[order.id]) for order in orders]
