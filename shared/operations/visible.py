"""Find the events of the outbox that Kafka already has: the evidence that `positions adopt` of a lane needs.

The topics are read as by any consumer, from before the oldest waiting row was decided. Ids go to a temporary table in
portions, so memory stays small.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import text

from ..errors import CommandFailed
from ..kafka.consumer import headers as headers_of
from ..protocol.ports import Input
from .group import CLEANUP_SECONDS
from .maintenance import Context, Maintenance
from .reading import Reading

CLOCKS_SECONDS = 3_600
"""Rows have the database's time, records a worker's or a broker's: their clocks may differ by this much."""

PORTION = 2_000
"""Ids looked up at once."""

_OLDEST = text("SELECT min(decided_at) FROM exactly_once_outbox WHERE lane = :lane")

_TOPICS = text("SELECT DISTINCT topic FROM exactly_once_outbox WHERE lane = :lane")

_TABLE = "pg_temp.waiting_{}"
_DROP = f"DROP TABLE IF EXISTS {_TABLE}"
_COPY = """
    CREATE TEMPORARY TABLE waiting_{0} AS
    SELECT id, topic, event_id, false AS visible FROM exactly_once_outbox WHERE lane = {0}
"""
_INDEX = f"CREATE INDEX ON {_TABLE} (event_id)"
_MARK = f"UPDATE {_TABLE} SET visible = true WHERE event_id = ANY(:ids) AND topic = :topic"  # noqa: S608 - a number

VISIBLE = f"SELECT id FROM {_TABLE} WHERE visible"  # noqa: S608 - a number
"""A query for the ids of the rows that Kafka has, by the number of a lane, on the connection of `look`."""


def look(paused: Maintenance, lane: int) -> None:
    """Find which rows of `lane` Kafka has; afterwards `VISIBLE` returns them.

    Raises `CommandFailed` if the topics do not reach back far enough, or an open transaction holds them back.
    """
    context, group, connection = paused.context, paused.group, paused.connection
    with connection.begin():
        oldest: datetime | None = connection.execute(_OLDEST, {"lane": lane}).scalar_one()
        topics = list(connection.execute(_TOPICS, {"lane": lane}).scalars())
        for statement in (_DROP, _COPY, _INDEX):
            connection.execute(text(statement.format(int(lane))))
    if oldest is None:
        return
    found = group.topics(topics)
    partitions = [Input(name, n) for name, topic in found.items() for n in range(topic.partitions)]
    spans = group.spans(partitions)
    starts = group.at_time(partitions, int((oldest.timestamp() - CLOCKS_SECONDS) * 1_000))
    ranges = {}
    for source, span in spans.items():
        start = starts[source] if starts.get(source, -1) >= 0 else span.high
        if start == span.low > 0:
            raise CommandFailed(
                f"{source}: retention may have removed records since {oldest:%Y-%m-%d %H:%M}, when the oldest waiting "
                f"row of lane-{lane} was decided, so the topics cannot show which rows were published. Choose "
                f"{context.command(f'positions rewind --target lane-{lane}')}, which may publish rows twice, or "
                f"{context.command(f'positions skip --target lane-{lane}')}, which may never publish claimed ones"
            )
        if start < span.high:
            ranges[source] = (start, span.high)
    for topic, ids in _published(context, ranges):
        with connection.begin():
            connection.execute(text(_MARK.format(int(lane))), {"ids": ids, "topic": topic})


def _published(context: Context, ranges: Mapping[Input, tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the ids of this service's events in `ranges`, in portions of one topic each."""
    patience = context.settings.transaction_timeout_ms / 1_000 + CLEANUP_SECONDS
    reading = Reading(context, ranges, removed="error")
    found: dict[str, list[str]] = {}
    for records in reading.portions():
        for source, _, message in records:
            headers: dict[str, Any] = dict(headers_of(message) or ())
            if headers.get("ce_source") == context.service.name.encode() and headers.get("ce_id"):
                found.setdefault(source.topic, []).append(headers["ce_id"].decode(errors="replace"))
        if time.monotonic() > reading.silent_since + patience:
            waits = ", ".join(str(source) for source in sorted(reading.left))
            raise CommandFailed(f"an open transaction holds back {waits}; end it, then try again")
        for topic in [topic for topic, ids in found.items() if len(ids) >= PORTION]:
            yield topic, found.pop(topic)
    yield from found.items()
