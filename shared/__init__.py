"""exactly-once: the library under the services.

The author of a service imports from here:

    from shared import Event, Service, Session, lock

Its HTTP side is in `shared.http`, and the tools for tests in `shared.testing`; a worker loads neither.

Read the modules in the order of a record's path: `events`, `consumer`, `positions`, `inbox`, `handlers`, `outbox`,
`producer`, and then `cycle`, the one file that knows the order of the commits.
"""

from .declaration.rows import lock
from .errors import Reject, Retry
from .events import Event
from .fields import MONEY_MAX, Currency, Id, Money, Quantity, Reason
from .models import Tables
from .service import Service
from .session import Session
from .states import NONE, Command, Machine, ignore, refuse, to

__all__ = [
    "MONEY_MAX",
    "NONE",
    "Command",
    "Currency",
    "Event",
    "Id",
    "Machine",
    "Money",
    "Quantity",
    "Reason",
    "Reject",
    "Retry",
    "Service",
    "Session",
    "Tables",
    "ignore",
    "lock",
    "refuse",
    "to",
]
