"""The order service's tables."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, SmallInteger, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shared import Tables


class Base(Tables, DeclarativeBase):
    """The service's own metadata."""


class OrderState(StrEnum):
    """Where an order stands; the last three are final."""

    PLACED = "PLACED"
    RESERVED = "RESERVED"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


class Order(Base):
    """An order, the aggregate whose key is on every event of the saga."""

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("state IN ('PLACED', 'RESERVED', 'CONFIRMED', 'REJECTED', 'CANCELLED')", name="orders_state"),
        CheckConstraint("amount > 0", name="orders_amount"),
        CheckConstraint("(amount IS NULL) = (currency IS NULL)", name="orders_money"),
        CheckConstraint("state NOT IN ('RESERVED', 'CONFIRMED') OR amount IS NOT NULL", name="orders_priced"),
        CheckConstraint("(state = 'REJECTED') = (reason IS NOT NULL)", name="orders_reason"),
        Index("orders_state_id", "state", "id"),
    )
    # Requests insert orders one at a time, and the answer contains the database's `placed_at`.
    __mapper_args__ = {"eager_defaults": "auto"}  # noqa: RUF012 (SQLAlchemy's own name and type)

    id: Mapped[str] = mapped_column(primary_key=True, comment="UUIDv7, so ids grow with time")
    account: Mapped[str]
    state: Mapped[str]
    amount: Mapped[int | None] = mapped_column(comment="minor units; known when the stock is reserved")
    currency: Mapped[str | None]
    reason: Mapped[str | None]
    placed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    lines: Mapped[list["OrderLine"]] = relationship(order_by="OrderLine.number")


class OrderLine(Base):
    """One line of an order; never changes."""

    __tablename__ = "order_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="order_line_quantity"),)

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    sku: Mapped[str]
    quantity: Mapped[int] = mapped_column(Integer)
