"""The first tables of the inventory service, and the library's."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from shared.revisions import r0001

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    r0001.upgrade()
    op.create_table(
        "stock",
        sa.Column("sku", sa.Text, primary_key=True),
        sa.Column("price", sa.BigInteger, nullable=False, comment="minor units"),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("available", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("sold", sa.BigInteger, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.CheckConstraint("price > 0", name="stock_price"),
        sa.CheckConstraint("available >= 0 AND reserved >= 0 AND sold >= 0", name="stock_not_negative"),
        sa.CheckConstraint("received = available + reserved + sold", name="stock_sum"),
    )
    op.create_table(
        "reservation",
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("lines", JSONB, nullable=False, comment="SKU to quantity; one row is written, not one for each line"),
        sa.Column("amount", sa.BigInteger, comment="minor units, at the prices of the reservation"),
        sa.Column("currency", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column(
            "was_sold",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="stays true when it is released later",
        ),
        sa.CheckConstraint(
            "state IN ('RESERVED', 'REJECTED', 'SOLD', 'RELEASED', 'CANCELLED')", name="reservation_state"
        ),
        sa.CheckConstraint(
            "(state IN ('RESERVED', 'SOLD', 'RELEASED')) = (amount IS NOT NULL)", name="reservation_priced"
        ),
        sa.CheckConstraint("(amount IS NULL) = (currency IS NULL)", name="reservation_money"),
        sa.CheckConstraint("(state = 'REJECTED') = (reason IS NOT NULL)", name="reservation_reason"),
        sa.CheckConstraint(
            "CASE state WHEN 'SOLD' THEN was_sold WHEN 'RELEASED' THEN TRUE ELSE NOT was_sold END",
            name="reservation_was_sold",
        ),
    )
