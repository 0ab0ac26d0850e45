"""What a handler or a request asks of the schedule: an event at a moment, under a name; or that name's event no more.

    session.schedule(PaymentOverdue(order_id=order.id), after=timedelta(minutes=15), name=f"overdue:{order.id}")
    session.cancel(f"overdue:{order.id}")

Whether a moment has come is for PostgreSQL's clock alone to say (`shared.postgres.schedule`).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from .errors import SessionMisused

YEARS_MAX = timedelta(days=3_653)
"""Ten years: what is later than that is a mistake of units, and a promise that nobody keeps."""

NAME_BYTES_MAX = 1_000
"""A name is the key of a table; PostgreSQL's index takes 2,700 bytes."""


RECURRING = "recurring:"
"""Names that begin so are those of recurring events."""


class Moment(NamedTuple):
    """When an event is due; one of both is None."""

    seconds: float | None
    """After the statement that writes it."""
    at: datetime | None


def moment(after: timedelta | None, at: datetime | None) -> Moment:
    """Return the moment of `after` or `at`; one that is long past becomes now. Raises `TypeError` or `ValueError`."""
    if (after is None) == (at is None):
        raise TypeError("an event is scheduled for a moment: give `after=timedelta(...)` or `at=datetime(...)`")
    if after is not None:
        if not isinstance(after, timedelta):
            raise TypeError(f"after={after!r}: give a timedelta, such as timedelta(minutes=15)")
        if after > YEARS_MAX:
            raise ValueError(f"after={after!r} is beyond ten years, which nothing is scheduled for")
        return Moment(max(after.total_seconds(), 0.0), None)
    if not isinstance(at, datetime):
        raise TypeError(f"at={at!r}: give a datetime with a time zone, such as datetime(2027, 1, 31, tzinfo=UTC)")
    if at.utcoffset() is None:
        raise ValueError(f"at={at!r} has no time zone, so it is no moment: give one, such as tzinfo=UTC")
    left = at - datetime.now(UTC)
    if left > YEARS_MAX:
        raise ValueError(f"at={at!r} is beyond ten years, which nothing is scheduled for")
    return Moment(0.0, None) if left < -YEARS_MAX else Moment(None, at.astimezone(UTC))


def checked_name(name: str) -> str:
    """Return `name`. Raises `TypeError` or `ValueError` for one that cannot be the key of a table."""
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}: the name of a scheduled event is text")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= NAME_BYTES_MAX or "\0" in name:
        raise ValueError(
            f"name={name[:100]!r}: the name of a scheduled event has 1 to {NAME_BYTES_MAX} bytes of UTF-8, and no NUL "
            "character"
        )
    return name


def own_name(name: str) -> str:
    """Return `name`. Raises what `checked_name` raises, also for the name of a recurring event."""
    if checked_name(name).startswith(RECURRING):
        raise ValueError(f"name={name[:100]!r}: names that begin with {RECURRING!r} are those of recurring events")
    return name


class Change:
    """One change of the schedule. It is true if an event of its name was still waiting: one that is now replaced or
    cancelled, and will never be published.

    Changes are written together, at the end. Whoever looks at one (`if session.cancel(name):`) has them written at
    once, at the cost of a round trip.
    """

    def __init__(self, name: str, moment: Moment | None, settle: Callable[[], None]) -> None:
        self.name = own_name(name)
        self.moment = moment
        """None: what waits under the name is cancelled."""
        self.pending: Any = None
        """The event as the outbox has it."""
        self.found: bool | None = None
        """Whether one was waiting; None while that is not known."""
        self._settle = settle

    def __bool__(self) -> bool:
        if self.found is None:
            self._settle()
        if self.found is None:
            raise SessionMisused(
                f"whether an event {self.name!r} was waiting was asked after its transaction: ask in the handler or in "
                "the request"
            )
        return self.found
