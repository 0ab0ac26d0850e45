"""The library's tables, fourth release: their names begin with `exactly_once_`, so that a service may have a table
`position` or `topic` of its own. A prefix rather than a schema: SQL stays as it is written, and services that share a
database go on to have a schema each, chosen by `search_path`.

Processes of the previous release keep working: each old name becomes a view of its table, through which PostgreSQL
reads, writes and locks the rows of the table itself. `remove_old_names` drops the views, in a `post` migration.

A service that has none of the earlier releases calls `create`, and nothing else. Frozen, like `r0001`.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

PREFIX = "exactly_once_"
RENAMED = {
    # In the order in which a transaction locks them: a worker's begins with `position`, a request's with
    # `idempotency_key`. Once these are locked, transactions under way can finish, and no new one begins.
    "attempt": "attempt",
    "position": "position",
    "idempotency_key": "idempotency_key",
    "inbox": "inbox",
    "outbox": "outbox",
    "lane": "lane",
    "said": "claimed",
    "dead_letter": "dead_letter",
    "stuck_record": "stuck_record",
    "cluster": "cluster",
    "topic": "topic",
    "decision": "decision",
}
COMMENTS = {
    "exactly_once_cluster.cluster_id": "the Kafka cluster that the positions belong to",
    "exactly_once_position.next_offset": "the offset after the last handled one",
    "exactly_once_lane.position": "number of the last claim: the published position, or one more while it is published",
    "exactly_once_lane.claim_id": "names the claimed batch; also the metadata of the committed offset",
    "exactly_once_claimed.events": "length of event_ids, readable without unpacking them",
    "exactly_once_claimed.event_ids": "in the order in which they are published",
    "exactly_once_dead_letter.dismissed_at": "when an operator decided that it will never be handled",
    "exactly_once_dead_letter.dismissed_by": "id of the decision",
    "exactly_once_stuck_record.ends": "consecutive processes that the watchdog ended at this record",
    "exactly_once_attempt.offset": "first record of the batch in progress",
    "exactly_once_attempt.last": "last record of the batch",
    "exactly_once_attempt.ends": "consecutive processes that began with this record alone; 0: not alone",
    "exactly_once_idempotency_key.status": "null only inside the transaction that is at work",
}
ATTEMPTS_MAX = 5
"""Of locking all tables, each for as long as `lock_timeout` says. A request may hold one table and wait for another
that is locked already; PostgreSQL then ends one of the two after a second.
"""

# Savepoints of a block give back the locks of an attempt that failed.
_LOCK = f"""
    DO $$ BEGIN
        FOR turn IN 1..{ATTEMPTS_MAX} LOOP
            BEGIN
                LOCK TABLE {", ".join(RENAMED)} IN ACCESS EXCLUSIVE MODE;
                EXIT;
            EXCEPTION WHEN deadlock_detected OR lock_not_available THEN
                IF turn = {ATTEMPTS_MAX} THEN RAISE; END IF;
                PERFORM pg_sleep(random());
            END;
        END LOOP;
    END $$
"""

# Constraints (the index of a key among them), other indexes, and the sequences of identity columns.
_PARTS = sa.text("""
    SELECT 'ALTER TABLE {table} RENAME CONSTRAINT', conname
    FROM pg_constraint WHERE conrelid = to_regclass(:table)
    UNION ALL
    SELECT 'ALTER INDEX', relname
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass(:table) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    UNION ALL
    SELECT 'ALTER SEQUENCE', relname
    FROM pg_depend JOIN pg_class ON pg_class.oid = objid AND relkind = 'S'
    WHERE refobjid = to_regclass(:table) AND deptype = 'i'
""")

# A view has no system columns; deletions in portions need `ctid`, which a view may show as a column of its own.
_COLUMNS = sa.text("""
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) || ', ctid' FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped
""")

_IS_VIEW = sa.text("""
    SELECT EXISTS (
        SELECT FROM pg_class
        WHERE relname = :name AND relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'v'
    )
""")


def upgrade() -> None:
    """Rename the tables of the earlier releases, and leave a view under each old name."""
    connection = op.get_bind()
    op.execute(_LOCK)
    for old, word in RENAMED.items():
        new = PREFIX + word
        parts = connection.execute(_PARTS, {"table": old}).all()
        op.rename_table(old, new)
        for alter, part in parts:
            to = "TO" if alter.endswith("CONSTRAINT") else "RENAME TO"
            name = f"{new}{part.removeprefix(old)}"
            op.execute(f"{alter.format(table=new)} {part} {to} {name}")
        _create_view(old, new)
    _comment()


def _create_view(old: str, new: str) -> None:
    """Show the table `new` under its old name. The view asks for the caller's own rights on the table, so everyone may
    use it: the `migrate` of the previous release, which takes all rights away and gives back those on tables alone,
    changes nothing about that.
    """
    columns = op.get_bind().execute(_COLUMNS, {"table": new}).scalar_one()
    op.execute(f"CREATE VIEW {old} WITH (security_invoker = true) AS SELECT {columns} FROM {new}")  # noqa: S608
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {old} TO PUBLIC")


def remove_old_names() -> None:
    """Drop the views. From here on the processes of the previous release fail, and a service may use the names."""
    for name in (*RENAMED, "alembic_version"):
        if op.get_bind().execute(_IS_VIEW, {"name": name}).scalar_one():
            op.execute(f"DROP VIEW {name}")


_NOW = sa.text("clock_timestamp()")


def create() -> None:
    """Create all tables of the library as they are after this release."""
    _create_positions()
    _create_outbox()
    _create_claimed()
    _create_dead_letter()
    _create_records()
    op.create_table(
        "exactly_once_idempotency_key",
        sa.Column("scope", sa.Text, nullable=False, comment="principal, method and path"),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    _create_brin("idempotency_key", "created_at")
    op.create_table(
        "exactly_once_decision",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("before", JSONB, nullable=False),
        sa.Column("after", JSONB, nullable=False),
    )
    _comment()


def _comment() -> None:
    for place, comment in COMMENTS.items():
        table, _, column = place.partition(".")
        quoted = comment.replace("'", "''")
        op.execute(f"COMMENT ON COLUMN {table}.\"{column}\" IS '{quoted}'")


def _create_brin(table: str, column: str) -> None:
    op.create_index(f"{PREFIX}{table}_{column}", PREFIX + table, [column], postgresql_using="brin")


def _create_positions() -> None:
    op.create_table(
        "exactly_once_cluster",
        sa.Column("one", sa.SmallInteger, primary_key=True, server_default=sa.text("1")),
        sa.Column("cluster_id", sa.Text, nullable=False),
        sa.CheckConstraint("one = 1"),
    )
    op.create_table(
        "exactly_once_topic",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("topic_id", sa.Text, nullable=False, comment="changes when a topic is deleted and created again"),
        sa.Column("partitions", sa.Integer, nullable=False),
    )
    op.create_table(
        "exactly_once_position",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
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
        "exactly_once_inbox",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("source", "event_id"),
    )
    _create_brin("inbox", "handled_at")


def _create_outbox() -> None:
    op.create_table(
        "exactly_once_lane",
        sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("claim_id", sa.Uuid),
        sa.Column("row_ids", sa.ARRAY(sa.BigInteger), nullable=False, server_default=sa.text("'{}'")),
    )
    op.create_table(
        "exactly_once_outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False),
        sa.Column("lane", sa.SmallInteger, sa.ForeignKey("exactly_once_lane.lane"), nullable=False),
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


def _create_claimed() -> None:
    op.create_table(
        "exactly_once_claimed",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("claim_id", sa.Uuid),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("event_ids", sa.ARRAY(sa.Text), nullable=False),
        sa.PrimaryKeyConstraint("lane", "id"),
    )
    _create_brin("claimed", "claimed_at")
    # A server that was built without lz4 keeps its own way.
    op.execute("""
        DO $$ BEGIN
            ALTER TABLE exactly_once_claimed ALTER COLUMN event_ids SET COMPRESSION lz4;
        EXCEPTION WHEN feature_not_supported THEN NULL;
        END $$
    """)


def _create_dead_letter() -> None:
    op.create_table(
        "exactly_once_dead_letter",
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
        sa.Column("traceback", sa.Text, comment="frames, those of the service first; no values"),
        sa.Column("dismissed_at", sa.DateTime(timezone=True)),
        sa.Column("dismissed_by", sa.BigInteger),
    )
    for name, column, where in (
        ("waiting", "id", "redriven_at IS NULL"),
        ("open", "id", "redriven_at IS NULL AND dismissed_at IS NULL"),
        ("redriven", "redriven_at", "redriven_at IS NOT NULL"),
        ("dismissed", "dismissed_at", "dismissed_at IS NOT NULL"),
    ):
        op.create_index(
            f"exactly_once_dead_letter_{name}", "exactly_once_dead_letter", [column], postgresql_where=sa.text(where)
        )


def _create_records() -> None:
    op.create_table(
        "exactly_once_stuck_record",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False, comment="where the last one was stuck"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "exactly_once_attempt",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.Integer, nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
