"""The outbox of a service that makes calls: what is due goes into a table of its own, in the same round trip.

A call is collected like an event: under an id derived from its cause, with the trace, undone with its savepoint. Only
where events are written, it is written elsewhere.
"""

from collections.abc import Collection

from sqlalchemy import text

from ..events import Event
from ..orm.bulk import Array
from ..postgres.ahead import Statement
from ..postgres.outbox import Outbox, PendingEvent
from ..postgres.slots import LOCK_CLASS
from ..scheduling import Change
from ..service import Service
from ..session import Session
from .declaration import Call, refuse_wrong

CHANNEL = "exactly_once_call"
"""Where callers listen for new calls (`shared.postgres.wakeup`). The payload names the destinations, between commas."""

PAYLOAD_MAX = 1_900
"""Characters: PostgreSQL takes 7,999 bytes. A destination that is cut off is found when a caller looks."""

NOTIFYING = -4
"""The advisory lock of the one transaction that notifies callers, beside those of `shared.postgres.outbox`."""

# In the order in which they were made: ids of one key grow in the order of the commits, as those of events do.
#
# Callers are notified of a destination for which no other call is due, and by one transaction at a time, as workers are
# of rows (`shared.postgres.outbox`). While a call is due, they are awake or were notified of it.
_INSERT = text("""
    WITH written AS (
        INSERT INTO exactly_once_call
            (destination, key, call_id, call_type, call_version, data, traceparent, due_at, give_up_at)
        SELECT added.destination, added.key, added.id, added.type, added.version, added.data, added.traceparent,
               clock_timestamp(), clock_timestamp() + make_interval(secs => added.within)
        FROM unnest(CAST((SELECT :destinations) AS text[]), CAST(:keys AS text[]), CAST(:ids AS text[]),
                    CAST(:types AS text[]), CAST(:versions AS smallint[]), CAST(:data AS bytea[]),
                    CAST(:traceparents AS text[]), CAST(:within AS float8[]))
             WITH ORDINALITY AS added (destination, key, id, type, version, data, traceparent, within, nth)
        ORDER BY added.nth
        RETURNING destination
    ),
    asleep AS (
        SELECT destination FROM (SELECT DISTINCT destination FROM written) AS called
        WHERE NOT EXISTS (
            SELECT FROM exactly_once_call AS waiting
            WHERE waiting.destination = called.destination AND waiting.due_at <= (SELECT clock_timestamp())
        )
    )
    SELECT pg_notify(:channel, left(string_agg(destination, ','), :payload_max)) FROM asleep
    HAVING CASE WHEN count(*) > 0 THEN pg_try_advisory_xact_lock(:class, :notifying) ELSE FALSE END
""")


class CallingOutbox(Outbox):
    """Collects events, and calls beside them."""

    def __init__(self, service: Service, event_bytes_max: int, calls: Collection[type[Call]] | None = None) -> None:
        """Without `calls` any call is taken: in a test no caller has to know it."""
        super().__init__(service, event_bytes_max)
        refuse_wrong(calls or (), service.publishes)
        self._calls = None if calls is None else frozenset(calls)

    @property
    def calls(self) -> frozenset[type[Call]]:
        """The calls that the service declares."""
        return self._calls or frozenset()

    def collect(
        self, session: Session, event: Event, event_id: str, traceparent: str | None, change: Change | None = None
    ) -> None:
        if isinstance(event, Call):
            kind = type(event)
            if change is not None:
                raise TypeError(
                    f"{kind.__name__} is a call, and cannot be scheduled: schedule an event whose handler makes it"
                )
            if self._calls is not None and kind not in self._calls:
                raise TypeError(
                    f"{self._service} does not make the call {kind.__name__}: add it to `calls` of its container"
                )
            self._publishes |= {kind}
        super().collect(session, event, event_id, traceparent, change)

    def insertion(self, session: Session) -> list[Statement]:
        due = [pending for pending in session.collected if isinstance(pending.event, Call)]
        if not due:
            return super().insertion(session)
        session.collected = [pending for pending in session.collected if not isinstance(pending.event, Call)]
        self.refuse_large(due)
        events = super().insertion(session)  # flushes first: ids grow while the aggregates are locked
        return [*events, _inserting(due)]


def _inserting(due: Collection[PendingEvent]) -> Statement:
    kinds: list[type[Call]] = [type(one.event) for one in due]  # type: ignore[misc]
    return Statement(
        _INSERT,
        {
            "destinations": Array(kind.destination.name for kind in kinds),
            "keys": Array(one.key for one in due),
            "ids": Array(one.event_id for one in due),
            "types": Array(kind.__name__ for kind in kinds),
            "versions": Array(kind.version for kind in kinds),
            "data": Array(one.data for one in due),
            "traceparents": Array(one.traceparent for one in due),
            "within": Array(kind.within.total_seconds() for kind in kinds),
            "channel": CHANNEL,
            "payload_max": PAYLOAD_MAX,
            "class": LOCK_CLASS,
            "notifying": NOTIFYING,
        },
    )
