"""Runs of recurring events: each is a row of the schedule, which is replaced by its successor when it becomes due.

The worker that moves a run into the outbox schedules the next one in the same transaction. So there is always one, and
each is published once, however many workers there are. A worker moves only runs of what it knows: during a rollout the
previous version leaves those of a new declaration to the new one.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from ..errors import Misconfigured
from ..events import encoded
from ..recurring import Recurrence
from ..service import Service
from ..telemetry.failures import describe
from ..telemetry.logs import log
from .outbox import lane_hash

TRIES_MAX = 10
"""Runs in a row whose event cannot be made, before the recurrence is given up until the next start."""

# A worker of another version may be doing the same; what is there with the same rule stays.
_SCHEDULE = text("""
    INSERT INTO exactly_once_schedule AS waiting (
        name, due, lane, hash, topic, key, event_id, event_type, event_version, data, cron
    )
    SELECT :name, :due, :hash % (SELECT count(*) FROM exactly_once_lane), :hash, :topic, :key, :event_id, :event_type,
           :event_version, :data, :cron
    ON CONFLICT (name) DO UPDATE SET
        id = DEFAULT, due = excluded.due, lane = excluded.lane, hash = excluded.hash, topic = excluded.topic,
        key = excluded.key, event_id = excluded.event_id, event_type = excluded.event_type,
        event_version = excluded.event_version, data = excluded.data, scheduled_at = excluded.scheduled_at,
        cron = excluded.cron
    WHERE waiting.cron IS DISTINCT FROM excluded.cron
""")
_NOW = text("SELECT statement_timestamp()")


class Run(NamedTuple):
    """A run that has become due."""

    name: str
    due: datetime
    now: datetime
    """The moment at which it was moved, by PostgreSQL's clock."""


class Recurring:
    """The recurring events of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service.name
        self._declared = {one.key: one for one in service.recurrences}

    @property
    def names(self) -> Sequence[str]:
        """The names under which their runs are scheduled."""
        return list(self._declared)

    def ensure(self, engine: Engine) -> None:
        """Schedule the next run of each that has none, or one by another rule. Raises `Misconfigured`."""
        if not self._declared:
            return
        with engine.begin() as connection:
            now = connection.execute(_NOW).scalar_one()
            for one in self._declared.values():
                try:
                    row = self._row(one, one.after(now))
                except Exception as error:
                    raise Misconfigured(f"recurring {one.name!r}: {': '.join(describe(error))}") from error
                connection.execute(_SCHEDULE, row)

    def follow(self, connection: Connection, runs: Iterable[Run]) -> None:
        """Schedule what follows `runs`, in the transaction that moves them. Runs that were missed meanwhile are left
        out, and so is one whose event cannot be made; the log says so.
        """
        for run in runs:
            one = self._declared[run.name]
            if missed := one.missed(run.due, run.now):
                log.warning("recurring_missed", name=one.name, run=run.due.isoformat(), left_out=missed)
            after = run.now
            for _ in range(TRIES_MAX):
                try:
                    after = one.after(after)
                    row = self._row(one, after)
                except Exception as error:  # noqa: BLE001 - a defect of this function stops nothing else
                    log.error("recurring_failed", name=one.name, run=str(after), detail=": ".join(describe(error)))
                    continue
                connection.execute(_SCHEDULE, row)
                break

    def _row(self, one: Recurrence, run: datetime) -> dict[str, Any]:
        event = one.event(run)
        return {
            "name": one.key,
            "due": run,
            "hash": lane_hash(event.key),
            "topic": event.topic,
            "key": event.key,
            "event_id": f"{self._service}:{one.key}.{run.astimezone(UTC):%Y%m%dT%H%M%SZ}",
            "event_type": type(event).__name__,
            "event_version": event.version,
            "data": encoded(event),
            "cron": one.rule,
        }
