"""exactly-once: the library under the services.

The author of a service imports `Event`, `Service`, `Session` and `lock` from here, and little else. The HTTP side is in
`shared.http`, and the tools for tests in `shared.testing`; a worker loads neither.

Read the rooms in the order of a record's path: `kafka`, which consumes and publishes; `protocol`, whose `cycle` is the
one file that knows the order of the commits; `session`, which a handler gets; `postgres`, which commits; and `worker`,
the loop around them.
"""

from . import lean

with lean.loading():
    from .declaration.rows import lock
    from .errors import Reject, Retry
    from .events import Event
    from .fields import MONEY_MAX, Currency, Id, Money, Quantity, Reason, Uuid
    from .models import Tables
    from .service import Service
    from .session import Session
    from .states import DUPLICATE, NONE, Command, Machine, ignore, refuse, to

__all__ = [
    "DUPLICATE",
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
    "Uuid",
    "ignore",
    "lock",
    "refuse",
    "to",
]
