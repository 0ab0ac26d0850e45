"""The payment service's tables."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Tables


class Base(Tables, DeclarativeBase):
    """The service's own metadata."""


class Account(Base):
    """A customer's account. Its balance is the sum of its ledger entries, kept here so that one locked row decides.

    What is held for a capture that the bank has not booked yet is no part of it.
    """

    __tablename__ = "account"
    __table_args__ = (CheckConstraint("balance >= 0", name="account_balance"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str]
    balance: Mapped[int] = mapped_column(comment="minor units")

    def post(self, amount: int, posting: str, *, against: str, order_id: str | None = None) -> tuple["Entry", "Entry"]:
        """Receive `amount`, or pay it if negative. Return both sides of the posting, for the ledger."""
        self.balance += amount
        both = {"posting": posting, "order_id": order_id, "currency": self.currency}
        return (
            Entry(side="customer", account=self.id, amount=amount, **both),
            Entry(side=against, amount=-amount, **both),
        )


class PaymentState(StrEnum):
    """Where a payment stands.

    CAPTURING, CANCELLING, REFUNDING: the bank is asked, and its answer decides. CANCELLING: its order has ended
    meanwhile. CANCELLED: its order ended before its stock was known here; nothing was taken.
    """

    CAPTURING = "CAPTURING"
    CANCELLING = "CANCELLING"
    CAPTURED = "CAPTURED"
    DECLINED = "DECLINED"
    REFUNDING = "REFUNDING"
    REFUNDED = "REFUNDED"
    CANCELLED = "CANCELLED"


class Payment(Base):
    """The payment of one order."""

    __tablename__ = "payment"
    __table_args__ = (
        CheckConstraint(
            "state IN ('CAPTURING', 'CANCELLING', 'CAPTURED', 'DECLINED', 'REFUNDING', 'REFUNDED', 'CANCELLED')",
            name="payment_state",
        ),
        CheckConstraint("amount > 0", name="payment_amount"),
        CheckConstraint(
            "CASE state WHEN 'CANCELLED' THEN num_nonnulls(account, amount, currency) = 0"
            " ELSE num_nulls(account, amount, currency) = 0 END",
            name="payment_money",
        ),
        CheckConstraint("(state = 'DECLINED') = (reason IS NOT NULL)", name="payment_reason"),
    )

    order_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    account: Mapped[str | None]
    amount: Mapped[int | None] = mapped_column(comment="minor units")
    currency: Mapped[str | None]
    reason: Mapped[str | None]

    def captured(self) -> tuple["Entry", "Entry"]:
        """Give the merchant what was held. Return both sides of the posting."""
        assert self.amount is not None
        both = {"posting": f"capture:{self.order_id}", "order_id": self.order_id, "currency": self.currency}
        return Entry(side="held", amount=-self.amount, **both), Entry(side="merchant", amount=self.amount, **both)


class Entry(Base):
    """One side of a posting in the ledger. The two sides of a posting sum to zero; entries are only ever added.

    A posting is named after its cause, so the primary key refuses a second capture of one order.
    """

    __tablename__ = "entry"
    __table_args__ = (
        CheckConstraint("side IN ('customer', 'held', 'merchant', 'cash')", name="entry_side"),
        CheckConstraint("(side = 'customer') = (account IS NOT NULL)", name="entry_account"),
        CheckConstraint("amount <> 0", name="entry_amount"),
        Index("entry_order_id", "order_id", postgresql_where=text("order_id IS NOT NULL")),
        Index("entry_account", "account", postgresql_where=text("account IS NOT NULL")),
    )

    posting: Mapped[str] = mapped_column(
        primary_key=True, comment="hold:<order>, capture:<order>, release:<order>, refund:<order>, deposit:<UUIDv7>"
    )
    side: Mapped[str] = mapped_column(
        primary_key=True, comment="customer, held for the bank, merchant, or cash: money from outside"
    )
    account: Mapped[str | None]
    order_id: Mapped[str | None]
    amount: Mapped[int] = mapped_column(comment="minor units; positive when the side receives")
    currency: Mapped[str]
    posted_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
