"""The library's tables, eighth release: the topics that an operator has paused.

Old code goes on as before on this schema: it does not know the table, and consumes what is paused. Frozen with the
release, like `r0001`. A new service calls it in its first migration.
"""

import sqlalchemy as sa
from alembic import op

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Create the table of pauses."""
    op.create_table(
        "exactly_once_pause",
        sa.Column("topic", sa.Text, primary_key=True, comment="the service handles none of its records"),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column("paused_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("decision", sa.BigInteger, nullable=False, comment="id of the decision"),
    )
