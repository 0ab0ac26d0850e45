"""The first tables of the order service, and the library's."""

import sqlalchemy as sa
from alembic import op

from shared.revisions import r0001

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    r0001.upgrade()
    op.create_table(
        "orders",
        sa.Column("id", sa.Text, primary_key=True, comment="UUIDv7, so ids grow with time"),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, comment="minor units; known when the stock is reserved"),
        sa.Column("currency", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.CheckConstraint(
            "state IN ('PLACED', 'RESERVED', 'CONFIRMED', 'REJECTED', 'CANCELLED')", name="orders_state"
        ),
        sa.CheckConstraint("amount > 0", name="orders_amount"),
        sa.CheckConstraint("(amount IS NULL) = (currency IS NULL)", name="orders_money"),
        sa.CheckConstraint("state NOT IN ('RESERVED', 'CONFIRMED') OR amount IS NOT NULL", name="orders_priced"),
        sa.CheckConstraint("(state = 'REJECTED') = (reason IS NOT NULL)", name="orders_reason"),
    )
    op.create_index("orders_state_id", "orders", ["state", "id"])
    op.create_table(
        "order_line",
        sa.Column("order_id", sa.Text, sa.ForeignKey("orders.id"), nullable=False),
        sa.Column("number", sa.SmallInteger, nullable=False),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.CheckConstraint("quantity > 0", name="order_line_quantity"),
        sa.PrimaryKeyConstraint("order_id", "number"),
    )
