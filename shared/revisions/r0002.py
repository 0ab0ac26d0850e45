"""The library's tables, second release: what was claimed is remembered, so that `audit` can compare it with the topics.

Old code goes on as before on this schema: it does not know the table, and does not write it. Frozen, like `r0001`.
"""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Create the table of what was said."""
    op.create_table(
        "said",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("claim_id", sa.Uuid),
        sa.Column(
            "claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column(
            "events", sa.Integer, nullable=False, comment="how many event_ids there are, told without unpacking them"
        ),
        sa.Column("event_ids", sa.ARRAY(sa.Text), nullable=False, comment="in the order in which they are said"),
        sa.PrimaryKeyConstraint("lane", "id"),
    )
    op.create_index("said_claimed_at", "said", ["claimed_at"], postgresql_using="brin")
    # A server that was built without lz4 keeps its own way.
    op.execute("""
        DO $$ BEGIN
            ALTER TABLE said ALTER COLUMN event_ids SET COMPRESSION lz4;
        EXCEPTION WHEN feature_not_supported THEN NULL;
        END $$
    """)
