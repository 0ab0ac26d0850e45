"""`outbox show | set-aside`: the rows that wait to be published, and the one that Kafka refuses."""

from typing import Any

from sqlalchemy import Connection, text

from .. import trace_context
from ..errors import CommandFailed, ContentRefused, Reject
from ..events import CONTENT_TYPE, SPEC_VERSION, Envelope
from ..postgres import claim_log, dead_letters, outbox
from ..postgres.dead_letters import DeadLetter
from ..protocol.ports import Input, NewDeadLetter, Record
from ..session import Session
from . import maintenance, survey
from .maintenance import Context, Maintenance
from .output import as_json, columns, echo

ROWS = 50
"""Rows that `outbox show` lists, the oldest of the whole outbox."""

_ROW = """
    SELECT outbox.id, outbox.lane, topic, key, event_id, event_type, event_version, octet_length(data) AS size, data,
           traceparent, decided_at, outbox.id = ANY(lane.row_ids) AS claimed
    FROM exactly_once_outbox AS outbox JOIN exactly_once_lane AS lane ON lane.lane = outbox.lane
"""
_OLDEST = text(f"{_ROW} ORDER BY decided_at LIMIT :most")
_FIND = text(f"{_ROW} WHERE event_id = :event_id ORDER BY id LIMIT 1")
_DELETE = text("DELETE FROM exactly_once_outbox WHERE lane = :lane AND id = :id")
_UNCLAIM = text("""
    UPDATE exactly_once_lane SET row_ids = array_remove(row_ids, :id), claim_id = gen_random_uuid() WHERE lane = :lane
""")
# The key decides the lane, and the time stays the original one.
_PUT_BACK = text("""
    INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data, traceparent,
        decided_at)
    SELECT :hash % (SELECT count(*) FROM exactly_once_lane), :topic, :key, :id, :type, :version, :data, :traceparent,
           CAST(:decided_at AS timestamptz)
""")
TOPIC_HEADER = "topic"
"""The header in which a row that was set aside keeps its topic."""


def show(context: Context, event_id: str | None, *, json: bool) -> None:
    """List the oldest rows, or show one of them."""
    with context.engine.connect() as connection:
        if event_id is None:
            rows = [_facts(row) for row in connection.execute(_OLDEST, {"most": ROWS})]
        else:
            row = connection.execute(_FIND, {"event_id": event_id}).one_or_none()
            if row is None:
                raise _absent(event_id)
            rows = [{**_facts(row), "data": bytes(row.data).decode(errors="backslashreplace")}]
    if json:
        as_json(rows)
    elif event_id is None:
        columns(
            ("LANE", "ROW", "CLAIMED", "TOPIC", "KEY", "TYPE", "EVENT ID", "BYTES", "DECIDED"),
            [[f[k] for k in ("lane", "row", "claimed", "topic", "key", "type", "id", "bytes", "time")] for f in rows],
        )
        if len(rows) == ROWS:
            echo(f"... the oldest {ROWS}; {context.command('positions show')} counts all")
    else:
        for name, fact in rows[0].items():
            echo(f"{name:12} {'-' if fact is None else fact}")


def _facts(row: Any) -> dict[str, Any]:
    return {
        "id": row.event_id,
        "type": f"{row.event_type}.v{row.event_version}",
        "topic": row.topic,
        "key": row.key,
        "lane": row.lane,
        "row": row.id,
        "claimed": "yes" if row.claimed else "no",
        "bytes": row.size,
        "time": row.decided_at.isoformat(),
        **trace_context.named(row.traceparent),
    }


def set_aside(context: Context, event_id: str, *, yes: bool) -> None:
    """Move a row from the outbox to the dead letters, so that the others of its lane are published."""
    with maintenance.maintenance(context) as paused:
        with paused.connection.begin():
            row = paused.connection.execute(_FIND, {"event_id": event_id}).one_or_none()
        if row is None:
            raise _absent(event_id)
        published = _unpublished(paused, row)
        maintenance.confirm(f"{event_id} for {row.topic} will not be published; set it aside?", yes=yes)
        with Session(paused.connection) as session, session.begin():
            number = _move(paused, session, row, published)
        echo(f"{event_id} is dead letter {number} now; start the workers again")
        echo(f"to publish it after all: {context.command(f'dead-letters redrive {number}')}")


def _absent(event_id: str) -> CommandFailed:
    return CommandFailed(f"the outbox has no event {event_id}: it was published already, or never decided")


def _unpublished(paused: Maintenance, row: Any) -> survey.LaneState:
    """Ensure that Kafka does not have the row: only then may it leave its claim."""
    (state,) = survey.see_lanes(paused.connection, paused.group, [row.lane], paused.context.service)
    stop = state.disagreement(paused.service)
    if stop is not None:
        raise CommandFailed(f"decide the lane first: {stop}")
    if row.claimed and state.is_published:
        raise CommandFailed(f"Kafka has {row.event_id} already; the next batch of lane {row.lane} deletes the row")
    return state


def _move(paused: Maintenance, session: Session, row: Any, state: survey.LaneState) -> int:
    connection = session.connection()
    claim = outbox.lock_claims(connection, [row.lane])[row.lane]
    if claim != state.claim or not connection.execute(_DELETE, {"lane": row.lane, "id": row.id}).rowcount:
        raise CommandFailed(f"lane-{row.lane} was changed meanwhile; look again")
    if row.claimed:
        claim_log.take_back(connection, [row.lane])
        connection.execute(_UNCLAIM, {"lane": row.lane, "id": row.id})
        claim_log.write(connection, [row.lane])
    (number,) = dead_letters.set_aside(
        session, paused.context.service, paused.context.outbox, [_dead_letter(paused, row)]
    )
    paused.context.outbox.write(session)
    maintenance.decided(
        connection,
        "outbox set-aside",
        f"lane-{row.lane}",
        {"event_id": row.event_id, "topic": row.topic, "claimed": row.claimed},
        {"dead_letter": number},
    )
    return number


def _dead_letter(paused: Maintenance, row: Any) -> NewDeadLetter:
    """The row, in the form of a record that was set aside."""
    time = row.decided_at.isoformat()
    kind = f"{row.event_type}.v{row.event_version}"
    facts = {
        "ce_specversion": SPEC_VERSION,
        "ce_source": paused.service,
        "ce_id": row.event_id,
        "ce_type": kind,
        "ce_time": time,
        "content-type": CONTENT_TYPE,
        TOPIC_HEADER: row.topic,
    }
    headers = [(name, fact.encode()) for name, fact in facts.items()]
    data = bytes(row.data)
    record = Record(Input(paused.context.service.lane_topic, row.lane), row.id, row.key.encode(), data, headers)
    envelope = Envelope(
        id=row.event_id,
        source=paused.service,
        type=row.event_type,
        version=row.event_version,
        time=time,
        key=row.key,
        data=data,
        traceparent=row.traceparent,
    )
    reason = ContentRefused(f"an operator set aside {kind} {row.event_id} for {row.topic}")
    return NewDeadLetter(record, 0, envelope, reason)


def put_back(connection: Connection, dead_letter: DeadLetter) -> None:
    """Put a row that was set aside back: it waits again, behind what its key has published since. Raises `Reject` for
    what is no such row.
    """
    kind, _, version = (dead_letter.event_type or "").rpartition(".v")
    topic, decided_at = dead_letter.header(TOPIC_HEADER), dead_letter.header("ce_time")
    if not (kind and version.isdecimal() and topic and decided_at and dead_letter.event_id):
        raise Reject("it has not the headers of an event of this outbox: it cannot be published. Dismiss it")
    key = (dead_letter.record.key or b"").decode()
    connection.execute(
        _PUT_BACK,
        {
            "hash": outbox.lane_hash(key),
            "topic": topic,
            "key": key,
            "id": dead_letter.event_id,
            "type": kind,
            "version": int(version),
            "data": dead_letter.record.value,
            "traceparent": dead_letter.traceparent,
            "decided_at": decided_at,
        },
    )
