"""The order service's HTTP API."""

from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import selectinload
from uuid_utils import uuid7

from services.order import events
from services.order.handlers import PLACED, cancel, deadline_of
from services.order.models import Order, OrderLine, OrderState
from services.order.settings import settings
from shared import Id, Quantity, Uuid
from shared.http import After, Created, Limit, RequestBody, ResponseBody, Router, Transaction

router = Router(scope="orders")


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


class OrderResponse(ResponseBody, of=Order):
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
    """Place an order. It is decided later, within a time that is set; follow `Location`."""
    lines = [OrderLine(number=number, **line.model_dump()) for number, line in enumerate(asked.lines, 1)]
    order = Order(id=str(uuid7()), account=asked.account, state=PLACED, lines=lines)
    session.add(order)
    ordered = tuple(events.Line(line.sku, line.quantity) for line in lines)
    session.publish(events.OrderPlaced(order_id=order.id, account=order.account, lines=ordered))
    patience = timedelta(seconds=settings().order_payment_seconds_max)
    session.schedule(events.PaymentOverdue(order_id=order.id), after=patience, name=deadline_of(order))
    return Created(OrderResponse.of(order), location=f"/orders/{order.id}")


@router.get("/orders/{order_id}")
def get_order(order_id: Uuid, session: Transaction) -> OrderResponse:
    """Return one order."""
    return OrderResponse.of(session.get_or_404(Order, order_id))


@router.get("/orders")
def list_orders(
    session: Transaction, state: OrderState | None = None, after: After[Uuid] = None, limit: Limit = 20
) -> OrdersResponse:
    """Return orders, newest first; orders that come meanwhile shift no page."""
    wanted = select(Order).options(selectinload(Order.lines))
    if state is not None:
        wanted = wanted.where(Order.state == state)
    page = session.page(wanted, after, limit)
    return OrdersResponse(orders=[OrderResponse.of(order) for order in page.rows], next=page.next)


@router.post("/orders/{order_id}/cancel")
def cancel_order(order_id: Uuid, session: Transaction) -> OrderResponse:
    """Cancel an order; 409 when it is confirmed or rejected already. Stock and money go back, if they were taken."""
    order = session.lock_or_404(Order, order_id)
    cancel(order, session)
    return OrderResponse.of(order)
