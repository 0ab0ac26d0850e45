"""The library's tables, first release. Frozen: a later change is another file, which every service calls from a
migration of its own.

The tables of `shared.tables` are not created from there: that module follows the code, a history must stay what it was.
They are not written three times either: three copies would drift. A test compares the result with `shared.tables`.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Create the tables of positions, inbox, outbox, dead letters, idempotency keys and decisions."""
    _create_positions()
    _create_outbox()
    _create_dead_letter()
    op.create_table(
        "idempotency_key",
        sa.Column("scope", sa.Text, nullable=False, comment="principal, method and path"),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.SmallInteger, comment="null only inside the transaction that is at work"),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    op.create_index("idempotency_key_created_at", "idempotency_key", ["created_at"], postgresql_using="brin")
    op.create_table(
        "decision",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("before", JSONB, nullable=False),
        sa.Column("after", JSONB, nullable=False),
    )


def _create_positions() -> None:
    op.create_table(
        "cluster",
        sa.Column("one", sa.SmallInteger, primary_key=True, server_default=sa.text("1")),
        sa.Column("cluster_id", sa.Text, nullable=False, comment="the Kafka cluster that the positions are of"),
        sa.CheckConstraint("one = 1"),
    )
    op.create_table(
        "topic",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("topic_id", sa.Text, nullable=False, comment="changes when a topic is deleted and created again"),
        sa.Column("partitions", sa.Integer, nullable=False),
    )
    op.create_table(
        "position",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False, comment="H: the offset after the last one handled"),
        sa.Column(
            "epoch",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="raised when a topic was recreated",
        ),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "inbox",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("source", "event_id"),
    )
    op.create_index("inbox_handled_at", "inbox", ["handled_at"], postgresql_using="brin")


def _create_outbox() -> None:
    op.create_table(
        "lane",
        sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column(
            "position",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="P, or P + 1 while a batch is said",
        ),
        sa.Column("claim_id", sa.Uuid, comment="names the claimed batch; goes with P as the metadata of the offset"),
        sa.Column("row_ids", sa.ARRAY(sa.BigInteger), nullable=False, server_default=sa.text("'{}'")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False),
        sa.Column("lane", sa.SmallInteger, sa.ForeignKey("lane.lane"), nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("event_version", sa.SmallInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.CheckConstraint("key <> ''"),
        sa.PrimaryKeyConstraint("lane", "id"),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "5000"},
    )


def _create_dead_letter() -> None:
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", JSONB, nullable=False, comment="[name, base64 of the value or null] pairs"),
        sa.Column("error", sa.Text, nullable=False, comment="the name of the exception"),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("set_aside_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column("redriven_at", sa.DateTime(timezone=True)),
    )
    op.create_index("dead_letter_waiting", "dead_letter", ["id"], postgresql_where=sa.text("redriven_at IS NULL"))
