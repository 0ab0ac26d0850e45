"""The first tables of the payment service, and the library's."""

import sqlalchemy as sa
from alembic import op

from shared.revisions import r0001

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    r0001.upgrade()
    op.create_table(
        "account",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False, comment="minor units"),
        sa.CheckConstraint("balance >= 0", name="account_balance"),
    )
    op.create_table(
        "payment",
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("account", sa.Text),
        sa.Column("amount", sa.BigInteger, comment="minor units"),
        sa.Column("currency", sa.Text),
        sa.Column("reason", sa.Text),
        sa.CheckConstraint("state IN ('CAPTURED', 'DECLINED', 'REFUNDED', 'CANCELLED')", name="payment_state"),
        sa.CheckConstraint("amount > 0", name="payment_amount"),
        sa.CheckConstraint(
            "CASE state WHEN 'CANCELLED' THEN num_nonnulls(account, amount, currency) = 0"
            " ELSE num_nulls(account, amount, currency) = 0 END",
            name="payment_money",
        ),
        sa.CheckConstraint("(state = 'DECLINED') = (reason IS NOT NULL)", name="payment_reason"),
    )
    _create_ledger()


def _create_ledger() -> None:
    op.create_table(
        "entry",
        sa.Column("posting", sa.Text, nullable=False, comment="capture:<order>, refund:<order>, deposit:<UUIDv7>"),
        sa.Column("side", sa.Text, nullable=False, comment="customer, merchant, or cash: money from outside"),
        sa.Column("account", sa.Text),
        sa.Column("order_id", sa.Text),
        sa.Column("amount", sa.BigInteger, nullable=False, comment="minor units; positive when the side receives"),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.CheckConstraint("side IN ('customer', 'merchant', 'cash')", name="entry_side"),
        sa.CheckConstraint("(side = 'customer') = (account IS NOT NULL)", name="entry_account"),
        sa.CheckConstraint("amount <> 0", name="entry_amount"),
        sa.PrimaryKeyConstraint("posting", "side"),
    )
    op.create_index("entry_order_id", "entry", ["order_id"], postgresql_where=sa.text("order_id IS NOT NULL"))
    op.create_index("entry_account", "entry", ["account"], postgresql_where=sa.text("account IS NOT NULL"))
    # A ledger that can be edited proves nothing. A superuser can still drop the trigger; a defect of ours cannot.
    op.execute("""
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'entries of the ledger are only ever added' USING ERRCODE = 'restrict_violation';
        END $$
    """)
    op.execute("""
        CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """)
