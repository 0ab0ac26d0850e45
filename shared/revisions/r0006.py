"""The library's tables, sixth release: records that wait are parked with their key.

Processes of the previous release do not know the table, and would handle later records of a parked key. So the table
refuses rows until `accept`, in a `post` migration, when none of them runs any more; meanwhile a record that has to wait
parks its input, as before. A service that begins with this release calls `create` after `r0005.upgrade`, and nothing
else. Frozen, like `r0001`.
"""

import sqlalchemy as sa
from alembic import op

TABLE = "exactly_once_parked"
NOT_YET = f"{TABLE}_not_yet"
"""The constraint that refuses rows."""


def upgrade() -> None:
    """Create the table; it refuses rows."""
    create()
    op.create_check_constraint(NOT_YET, TABLE, sa.false())


def accept() -> None:
    """Let the table accept rows."""
    op.drop_constraint(NOT_YET, TABLE)


def create() -> None:
    """Create the table."""
    op.create_table(
        TABLE,
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column(
            "key_hash",
            sa.LargeBinary,
            sa.Computed("sha256(key)", persisted=True),
            nullable=False,
            comment="a key may be too long for an index",
        ),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("source", sa.Text, nullable=False, comment="with event_id, how the inbox knows it"),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False, comment="JSON: [name, base64 of the value or null] pairs"),
        sa.Column("bytes", sa.BigInteger, nullable=False, comment="of key, value and headers"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="0: it only waits behind others of its key"),
        sa.Column("ends", sa.Integer, nullable=False, server_default=sa.text("0"), comment="processes ended at it"),
        sa.Column(
            "due", sa.DateTime(timezone=True), nullable=False, comment="not before, if it is the first of its key"
        ),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("error", sa.Text, comment="the name of the last exception"),
        sa.Column("detail", sa.Text),
        sa.Column("traceback", sa.Text, comment="frames, those of the service first; no values"),
        sa.PrimaryKeyConstraint("topic", "partition", "key_hash", "epoch", "offset"),
    )
