"""The library's tables in the database of every service, created by its migrations (`shared/revisions`). Their names
begin with `exactly_once_`; every other name belongs to the service.
"""

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp())


cluster = Table(
    "exactly_once_cluster",
    metadata,
    Column("one", SmallInteger, CheckConstraint("one = 1"), primary_key=True, server_default=text("1")),
    Column("cluster_id", Text, nullable=False, comment="the Kafka cluster that the positions belong to"),
)

topic = Table(
    "exactly_once_topic",
    metadata,
    Column("name", Text, primary_key=True),
    Column("topic_id", Text, nullable=False, comment="changes when a topic is deleted and created again"),
    Column("partitions", Integer, nullable=False),
)

position = Table(
    "exactly_once_position",
    metadata,
    Column("topic", Text),
    Column("partition", Integer),
    Column("next_offset", BigInteger, nullable=False, comment="the offset after the last handled one"),
    Column("epoch", Integer, nullable=False, server_default=text("0"), comment="raised when a topic was recreated"),
    PrimaryKeyConstraint("topic", "partition"),
)

inbox = Table(
    "exactly_once_inbox",
    metadata,
    Column("source", Text),
    Column("event_id", Text),
    _now("handled_at"),
    PrimaryKeyConstraint("source", "event_id"),
    Index("exactly_once_inbox_handled_at", "handled_at", postgresql_using="brin"),
)

lane = Table(
    "exactly_once_lane",
    metadata,
    Column("lane", SmallInteger, primary_key=True, autoincrement=False),
    Column(
        "position",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="number of the last claim: the published position, or one more while it is published",
    ),
    Column("claim_id", Uuid, comment="names the claimed batch; also the metadata of the committed offset"),
    Column("row_ids", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
)

outbox = Table(
    "exactly_once_outbox",
    metadata,
    # CACHE 1: ids of one key must grow in commit order, so no session may hold ids in reserve.
    Column("id", BigInteger, Identity(always=True, cache=1), nullable=False),
    # Refuses an API that computes lanes with another number than the database has.
    Column("lane", SmallInteger, ForeignKey("exactly_once_lane.lane"), nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text, CheckConstraint("key <> ''"), nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("event_version", SmallInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("traceparent", Text),
    _now("decided_at"),
    PrimaryKeyConstraint("lane", "id"),
    # Rows live for milliseconds: vacuum by count, not by a share of the table.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "5000"},
)

schedule = Table(
    "exactly_once_schedule",
    metadata,
    Column("name", Text, primary_key=True, comment="what it is replaced and cancelled by"),
    # CACHE 1, as in the outbox: of one key's events for one moment, the one scheduled first is published first.
    Column("id", BigInteger, Identity(always=True, cache=1), nullable=False),
    Column("due", DateTime(timezone=True), nullable=False),
    Column("lane", SmallInteger, ForeignKey("exactly_once_lane.lane"), nullable=False),
    Column("hash", BigInteger, nullable=False, comment="CRC32 of the key; its remainder is the lane"),
    Column("topic", Text, nullable=False),
    Column("key", Text, CheckConstraint("key <> ''"), nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("event_version", SmallInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("traceparent", Text),
    Column("cron", Text, comment="of a recurring event: its expression and time zone"),
    _now("scheduled_at"),
    Index("exactly_once_schedule_due", "lane", "due", "id"),
    # The worker looks at the first entries of the index, and rows that have left it lie before them until vacuum.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_threshold": "5000"},
)

claimed = Table(
    "exactly_once_claimed",
    metadata,
    # Within a lane the ids grow in the order of the claims, even when positions or the number of lanes change.
    Column("id", BigInteger, Identity(always=True, cache=1), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("claim_id", Uuid),
    _now("claimed_at"),
    Column("topic", Text, nullable=False),
    Column("events", Integer, nullable=False, comment="length of event_ids, readable without unpacking them"),
    Column("event_ids", ARRAY(Text), nullable=False, comment="in the order in which they are published"),
    PrimaryKeyConstraint("lane", "id"),
    Index("exactly_once_claimed_claimed_at", "claimed_at", postgresql_using="brin"),
)

# A server built without lz4 keeps its default.
event.listen(
    claimed,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        """
        DO $$ BEGIN
            ALTER TABLE exactly_once_claimed ALTER COLUMN event_ids SET COMPRESSION lz4;
        EXCEPTION WHEN feature_not_supported THEN NULL;
        END $$
        """
    ),
)

dead_letter = Table(
    "exactly_once_dead_letter",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False, comment="[name, base64 of the value or null] pairs"),
    Column("error", Text, nullable=False, comment="the name of the exception"),
    Column("detail", Text, nullable=False),
    Column("traceparent", Text),
    _now("set_aside_at"),
    Column("redriven_at", DateTime(timezone=True)),
    Column("traceback", Text, comment="frames, those of the service first; no values"),
    Column("dismissed_at", DateTime(timezone=True), comment="when an operator decided that it will never be handled"),
    Column("dismissed_by", BigInteger, comment="id of the decision"),
    Index("exactly_once_dead_letter_waiting", "id", postgresql_where=text("redriven_at IS NULL")),
    Index("exactly_once_dead_letter_open", "id", postgresql_where=text("redriven_at IS NULL AND dismissed_at IS NULL")),
    Index("exactly_once_dead_letter_redriven", "redriven_at", postgresql_where=text("redriven_at IS NOT NULL")),
    Index("exactly_once_dead_letter_dismissed", "dismissed_at", postgresql_where=text("dismissed_at IS NOT NULL")),
)

parked = Table(
    "exactly_once_parked",
    metadata,
    Column("topic", Text),
    Column("partition", Integer),
    Column(
        "key_hash",
        LargeBinary,
        Computed("sha256(key)", persisted=True),
        nullable=False,
        comment="a key may be too long for an index",
    ),
    Column("epoch", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary),
    Column("source", Text, nullable=False, comment="with event_id, how the inbox knows it"),
    Column("event_id", Text, nullable=False),
    Column("headers", LargeBinary, nullable=False, comment="JSON: [name, base64 of the value or null] pairs"),
    Column("bytes", BigInteger, nullable=False, comment="of key, value and headers"),
    Column("attempts", Integer, nullable=False, comment="0: it only waits behind others of its key"),
    Column("ends", Integer, nullable=False, server_default=text("0"), comment="processes ended at it"),
    Column("due", DateTime(timezone=True), nullable=False, comment="not before, if it is the first of its key"),
    _now("parked_at"),
    Column("error", Text, comment="the name of the last exception"),
    Column("detail", Text),
    Column("traceback", Text, comment="frames, those of the service first; no values"),
    PrimaryKeyConstraint("topic", "partition", "key_hash", "epoch", "offset"),
)

stuck_record = Table(
    "exactly_once_stuck_record",
    metadata,
    Column("topic", Text),
    Column("partition", Integer),
    Column("offset", BigInteger, nullable=False),
    Column("ends", Integer, nullable=False, comment="consecutive processes that the watchdog ended at this record"),
    Column("detail", Text, nullable=False),
    Column("traceback", Text, nullable=False, comment="where the last one was stuck"),
    _now("ended_at"),
    PrimaryKeyConstraint("topic", "partition"),
)

attempt = Table(
    "exactly_once_attempt",
    metadata,
    Column("topic", Text),
    Column("partition", Integer),
    Column("offset", BigInteger, nullable=False, comment="first record of the batch in progress"),
    Column("last", BigInteger, nullable=False, comment="last record of the batch"),
    Column(
        "ends", Integer, nullable=False, comment="consecutive processes that began with this record alone; 0: not alone"
    ),
    _now("begun_at"),
    PrimaryKeyConstraint("topic", "partition"),
)

idempotency_key = Table(
    "exactly_once_idempotency_key",
    metadata,
    Column("scope", Text, comment="principal, method and path"),
    Column("key", Text),
    Column("body_hash", LargeBinary, nullable=False),
    Column("status", SmallInteger, comment="null only inside the transaction that is at work"),
    Column("answer", LargeBinary),
    _now("created_at"),
    PrimaryKeyConstraint("scope", "key"),
    Index("exactly_once_idempotency_key_created_at", "created_at", postgresql_using="brin"),
)

decision = Table(
    "exactly_once_decision",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _now("decided_at"),
    Column("command", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("before", JSONB, nullable=False),
    Column("after", JSONB, nullable=False),
)

pause = Table(
    "exactly_once_pause",
    metadata,
    Column("topic", Text, primary_key=True, comment="the service handles none of its records"),
    _now("paused_at"),
    Column("paused_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decision", BigInteger, nullable=False, comment="id of the decision"),
)

destination = Table(
    "exactly_once_destination",
    metadata,
    Column("name", Text, primary_key=True),
    Column(
        "rate_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.clock_timestamp(),
        comment="when the calls taken so far would have been made at the even rate",
    ),
)

call = Table(
    "exactly_once_call",
    metadata,
    # CACHE 1: ids of one key must grow in commit order, so no session may hold ids in reserve.
    Column("id", BigInteger, Identity(always=True, cache=1), primary_key=True),
    Column("destination", Text, nullable=False),
    Column("key", Text, CheckConstraint("key <> ''"), nullable=False),
    Column("call_id", Text, nullable=False, comment="the idempotency key"),
    Column("call_type", Text, nullable=False),
    Column("call_version", SmallInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("traceparent", Text),
    _now("decided_at"),
    Column("due_at", DateTime(timezone=True), nullable=False, comment="not asked before; while claimed: the lease"),
    Column("give_up_at", DateTime(timezone=True), nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column(
        "lease",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="raised by each claim; only who still has it finishes the call",
    ),
    Column("claimed_by", Text, comment="the caller that asks; null: none does"),
    Column(
        "maybe_done",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="an attempt may have reached the destination",
    ),
    Column("failure", Text, comment="why the last attempt failed"),
    Column(
        "stuck",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="the code of the service failed at the answer",
    ),
    Index("exactly_once_call_due", "destination", "due_at", "id"),
    Index("exactly_once_call_give_up", "destination", "give_up_at"),
    Index("exactly_once_call_key", "key", "id"),
    Index("exactly_once_call_claimed", "destination", postgresql_where=text("claimed_by IS NOT NULL")),
    # Rows live for seconds: vacuum by count, not by a share of the table.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "5000"},
)
