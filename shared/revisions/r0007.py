"""The library's tables, seventh release: calls to third parties that are due, and the destinations that they go to.

Old code goes on as before on this schema: it knows neither table, and writes none. Frozen with the release, like
`r0001`. A new service calls it in its first migration.
"""

import sqlalchemy as sa
from alembic import op

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Create the tables of calls."""
    op.create_table(
        "exactly_once_destination",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column(
            "rate_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=_NOW,
            comment="when the calls taken so far would have been made at the even rate",
        ),
    )
    op.create_table(
        "exactly_once_call",
        # CACHE 1: ids of one key must grow in commit order, so no session may hold ids in reserve.
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, cache=1), primary_key=True),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False, comment="the idempotency key"),
        sa.Column("call_type", sa.Text, nullable=False),
        sa.Column("call_version", sa.SmallInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), nullable=False, comment="not asked before; while claimed: the lease"
        ),
        sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column(
            "lease",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="raised by each claim; only who still has it finishes the call",
        ),
        sa.Column("claimed_by", sa.Text, comment="the caller that asks; null: none does"),
        sa.Column(
            "maybe_done",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="an attempt may have reached the destination",
        ),
        sa.Column("failure", sa.Text, comment="why the last attempt failed"),
        sa.Column(
            "stuck",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="the code of the service failed at the answer",
        ),
        sa.CheckConstraint("key <> ''"),
        # Rows live for seconds: vacuum by count, not by a share of the table.
        postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "5000"},
    )
    for name, columns in (
        ("due", ["destination", "due_at", "id"]),
        ("give_up", ["destination", "give_up_at"]),
        ("key", ["key", "id"]),
    ):
        op.create_index(f"exactly_once_call_{name}", "exactly_once_call", columns)
    op.create_index(
        "exactly_once_call_claimed",
        "exactly_once_call",
        ["destination"],
        postgresql_where=sa.text("claimed_by IS NOT NULL"),
    )
