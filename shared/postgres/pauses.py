"""Topics that an operator has paused: their records wait in Kafka, and all workers of the service leave them there."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ..telemetry.gauges import Known

PAUSED = Known(
    "exactly_once_input_paused_seconds",
    "For how long an operator has paused a topic; 0: it is not paused; absent while it is not known",
    ("topic",),
)


class Pause(NamedTuple):
    """The pause of one topic."""

    topic: str
    at: datetime
    by: str
    reason: str
    decision: int
    """Its number among the decisions."""
    seconds: float
    """Its age, by PostgreSQL's clock; more than 0."""

    def __str__(self) -> str:
        return f"paused by {self.by} since {self.at:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"


_COLUMNS = """
    topic, paused_at, paused_by, reason, decision,
    greatest(CAST(extract(epoch FROM clock_timestamp() - paused_at) AS float8), 0.001)
"""
_LOOK = text(f"SELECT {_COLUMNS} FROM exactly_once_pause ORDER BY topic")  # noqa: S608 - constants
_PAUSE = text("""
    INSERT INTO exactly_once_pause (topic, paused_by, reason, decision) VALUES (:topic, :by, :reason, :decision)
    ON CONFLICT DO NOTHING
""")
_RESUME = text(f"DELETE FROM exactly_once_pause WHERE topic = :topic RETURNING {_COLUMNS}")  # noqa: S608 - constants


def look(connection: Connection) -> dict[str, Pause]:
    """Return all pauses by topic."""
    return {row.topic: _pause(row) for row in connection.execute(_LOOK)}


def show(paused: Mapping[str, Pause], consumed: Collection[str]) -> None:
    """Show which of the topics that the service consumes are paused."""
    PAUSED.show({(topic,): paused[topic].seconds if topic in paused else 0.0 for topic in consumed})


def pause(connection: Connection, topic: str, by: str, reason: str, decision: int) -> bool:
    """Pause a topic; False if it is paused already, perhaps by a transaction that has committed just now."""
    facts = {"topic": topic, "by": by, "reason": reason, "decision": decision}
    return bool(connection.execute(_PAUSE, facts).rowcount)


def resume(connection: Connection, topic: str) -> Pause | None:
    """End the pause of a topic, and return what it was; None if it is not paused."""
    row = connection.execute(_RESUME, {"topic": topic}).one_or_none()
    return None if row is None else _pause(row)


def _pause(row: Any) -> Pause:
    topic, at, *rest = row
    return Pause(topic, at.astimezone(UTC), *rest)
