"""Dead letters: records that cannot be handled, set aside in the transaction that moves H past them.

The record itself is kept in a table of the service's database; the topic `<service>.dead-letters` tells that it is there. Re-driving one is a single
Postgres transaction that runs the handlers under the ids of the original record, so it is exactly-once like everything else.
"""

import base64
import json
from collections.abc import Sequence

from sqlalchemy import Connection, text

from shared.events import Event
from shared.handling import Service
from shared.outbox import Outbox, Said
from shared.ports import Input, Letter, Record
from shared.session import Session

DETAIL_MAX = 2_000
"""Characters of an error that are kept; enough for the message and the place."""

_INSERT = text("""
    INSERT INTO dead_letter (topic, partition, "offset", epoch, key, value, headers, error, detail, traceparent)
    VALUES (:topic, :partition, :offset, :epoch, :key, :value, CAST(:headers AS jsonb), :error, :detail, :traceparent)
    RETURNING id
""")


class RecordSetAside(Event, frozen=True, kw_only=True):
    """A record was set aside; the record itself is row `dead_letter` of the service's table of that name."""

    topic = ""  # every service has its own: Service.dead_letter_topic

    dead_letter: int
    source_topic: str
    partition: int
    offset: int
    error: str
    detail: str


def cause_id(service: str, record: Record, epoch: int, event_type: str, n: int) -> str:
    """The id of the n-th event of a type that `service` says about `record`: the same whenever it is handled."""
    return f"{service}:{record.input.topic}-{record.input.partition}.{epoch}.{record.offset}.{event_type}.{n}"


def describe(error: BaseException) -> tuple[str, str]:
    """Name an error and say it, as text that PostgreSQL can store."""
    return type(error).__name__, str(error).replace("\\x00", "\\\\0")[:DETAIL_MAX]


def set_aside(session: Session, service: Service, outbox: Outbox, letters: Sequence[Letter]) -> None:
    """Insert `letters`, and say that they are there."""
    for letter in letters:
        record = letter.record
        error, detail = describe(letter.error)
        traceparent = letter.envelope.traceparent if letter.envelope else None
        headers = [
            (name, None if value is None else base64.b64encode(value).decode()) for name, value in record.headers or ()
        ]
        number = (
            session.connection()
            .execute(
                _INSERT,
                {
                    "topic": record.input.topic,
                    "partition": record.input.partition,
                    "offset": record.offset,
                    "epoch": letter.epoch,
                    "key": record.key,
                    "value": record.value,
                    "headers": json.dumps(headers),
                    "error": error,
                    "detail": detail,
                    "traceparent": traceparent,
                },
            )
            .scalar_one()
        )
        told = RecordSetAside(
            dead_letter=number,
            source_topic=record.input.topic,
            partition=record.input.partition,
            offset=record.offset,
            error=error,
            detail=detail,
        )
        key = letter.envelope.key if letter.envelope else str(record.input)
        event_id = cause_id(service.name, record, letter.epoch, RecordSetAside.__name__, 0)
        outbox.keep(session, Said(told, service.dead_letter_topic, key, event_id, traceparent))


def _record(connection: Connection, number: int, *, lock: bool) -> tuple[Record, int, bool] | None:
    """The record of a dead letter, its epoch, and whether it was re-driven."""
    row = connection.execute(
        text(
            'SELECT topic, partition, "offset", key, value, headers, epoch, redriven_at IS NOT NULL FROM dead_letter WHERE id = :id'
            + (" FOR UPDATE" if lock else "")
        ),
        {"id": number},
    ).one_or_none()
    if row is None:
        return None
    headers = [(name, None if value is None else base64.b64decode(value)) for name, value in row[5]]
    return Record(Input(row[0], row[1]), row[2], row[3], row[4], headers), row[6], row[7]
