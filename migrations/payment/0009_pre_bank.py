"""A payment asks the bank: three states in which it waits for the answer, and money that is held meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Allow more states and one more side: what old processes write is allowed as before."""
    op.drop_constraint("payment_state", "payment")
    op.create_check_constraint(
        "payment_state",
        "payment",
        "state IN ('CAPTURING', 'CANCELLING', 'CAPTURED', 'DECLINED', 'REFUNDING', 'REFUNDED', 'CANCELLED')",
    )
    op.drop_constraint("entry_side", "entry")
    op.create_check_constraint("entry_side", "entry", "side IN ('customer', 'held', 'merchant', 'cash')")
    op.alter_column(
        "entry",
        "posting",
        existing_type=sa.Text,
        comment="hold:<order>, capture:<order>, release:<order>, refund:<order>, deposit:<UUIDv7>",
    )
    op.alter_column(
        "entry",
        "side",
        existing_type=sa.Text,
        comment="customer, held for the bank, merchant, or cash: money from outside",
    )
