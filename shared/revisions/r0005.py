"""The library's tables, fifth release: scheduled events. Frozen, like `r0001`."""

import sqlalchemy as sa
from alembic import op

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Create the schedule. Processes of the previous release know nothing of it, and leave alone what waits there."""
    op.create_table(
        "exactly_once_schedule",
        sa.Column("name", sa.Text, primary_key=True, comment="what it is replaced and cancelled by"),
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lane", sa.SmallInteger, sa.ForeignKey("exactly_once_lane.lane"), nullable=False),
        sa.Column("hash", sa.BigInteger, nullable=False, comment="CRC32 of the key; its remainder is the lane"),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("event_version", sa.SmallInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("cron", sa.Text, comment="of a recurring event: its expression and time zone"),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.CheckConstraint("key <> ''"),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_threshold": "5000"},
    )
    op.create_index("exactly_once_schedule_due", "exactly_once_schedule", ["lane", "due", "id"])
