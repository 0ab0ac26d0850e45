"""The inventory service's tables."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Tables


class Base(Tables, DeclarativeBase):
    """The service's own metadata."""


class Stock(Base):
    """One item. All that was received is available, reserved or sold: the database itself refuses any other sum."""

    __tablename__ = "stock"
    __table_args__ = (
        CheckConstraint("price > 0", name="stock_price"),
        CheckConstraint("available >= 0 AND reserved >= 0 AND sold >= 0", name="stock_not_negative"),
        CheckConstraint("received = available + reserved + sold", name="stock_sum"),
    )

    sku: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int] = mapped_column(comment="minor units")
    currency: Mapped[str]
    available: Mapped[int] = mapped_column(default=0)
    reserved: Mapped[int] = mapped_column(default=0)
    sold: Mapped[int] = mapped_column(default=0)
    received: Mapped[int] = mapped_column(default=0)


class ReservationState(StrEnum):
    """Where a reservation stands. CANCELLED: its order was cancelled before it was known here; nothing was reserved."""

    RESERVED = "RESERVED"
    REJECTED = "REJECTED"
    SOLD = "SOLD"
    RELEASED = "RELEASED"
    CANCELLED = "CANCELLED"


class Reservation(Base):
    """The stock taken by one order."""

    __tablename__ = "reservation"
    __table_args__ = (
        CheckConstraint("state IN ('RESERVED', 'REJECTED', 'SOLD', 'RELEASED', 'CANCELLED')", name="reservation_state"),
        CheckConstraint("(state IN ('RESERVED','SOLD','RELEASED')) = (amount IS NOT NULL)", name="reservation_priced"),
        CheckConstraint("(amount IS NULL) = (currency IS NULL)", name="reservation_money"),
        CheckConstraint("(state = 'REJECTED') = (reason IS NOT NULL)", name="reservation_reason"),
        CheckConstraint(
            "CASE state WHEN 'SOLD' THEN was_sold WHEN 'RELEASED' THEN TRUE ELSE NOT was_sold END",
            name="reservation_was_sold",
        ),
    )

    order_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    lines: Mapped[dict[str, int]] = mapped_column(comment="SKU to quantity; one row is written, not one for each line")
    amount: Mapped[int | None] = mapped_column(comment="minor units, at the prices of the reservation")
    currency: Mapped[str | None]
    reason: Mapped[str | None]
    was_sold: Mapped[bool] = mapped_column(server_default=text("false"), comment="stays true when it is released later")
