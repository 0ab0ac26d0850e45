"""A list in pages, newest first.

    @router.get("/orders")
    def list_orders(session: Transaction, after: After[Uuid] = None, limit: Limit = 20) -> OrdersResponse:
        page = session.page(select(Order), after, limit)
        return OrdersResponse(orders=[OrderResponse.of(order) for order in page.rows], next=page.next)

Each page begins after the last key of the page before, so rows that come meanwhile shift none.
"""

from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Query
from sqlalchemy.orm import DeclarativeBase

Key = TypeVar("Key")
Model = TypeVar("Model", bound=DeclarativeBase)

After = Annotated[Key | None, Query(description="`next` of the page before")]
"""The query parameter that names where a page begins, by the type of the rows' key."""

Limit = Annotated[int, Query(ge=1, le=100)]
"""The query parameter that limits a page."""


class Page(NamedTuple, Generic[Model]):
    """A page of rows."""

    rows: list[Model]
    next: Any
    """`after` of the next page; None: this is the last one."""
