"""The faults that can happen at one call of a port, and the simulation's own errors.

A crash after a call is the same as one before the next call: nothing in between can be seen from outside. The same
holds for stalls.
"""

from enum import Enum


class Fault(Enum):
    """One fault at a call."""

    NONE = "go-on"
    DIE = "die"
    """The process dies before the call, and its supervisor starts it again at once."""
    DIE_LONG = "die-long"
    """As DIE, but it comes back after the session timeout, while its transaction is still open."""
    DIE_LATE = "die-late"
    """The process dies with the COMMIT on its way; the server gets it rounds later."""
    PAUSE = "pause"
    """The process stands still for two rounds: unnoticed."""
    FREEZE = "freeze"
    """It stands still beyond the session timeout: others own its partitions."""
    SLEEP = "sleep"
    """It stands still beyond every timeout: its Kafka transaction is aborted, its database session ended."""
    EXPEL = "expel"
    """The group expels the member, which goes on."""
    REFUSE = "refuse"
    """The call fails and has no effect."""
    LOSE = "lose-reply"
    """The call has its effect; the reply is lost."""
    LATE = "late"
    """The call fails; the request arrives rounds later."""
    LATE_INSIDE = "late-inside"
    """The call fails; the request arrives inside the next transaction of the same transactional.id."""
    TWICE = "twice"
    """The call succeeds at the second try; the first request arrives inside the next transaction (KAFKA-17754)."""
    CUT = "cut"
    """The database session dies; what was under way is rolled back."""
    CONTENT = "content"
    """Kafka refuses a row for its content, once."""
    POISON = "poison"
    """A handler fails, once."""
    RETRY = "retry"
    """A handler asks for another attempt."""
    FORGET = "forget"
    """The broker is killed; back, it aborts the transaction and forgets to mark its records (KAFKA-20734)."""
    FORGET_OFFSETS = "forget-offsets"
    """As FORGET, but it forgets to mark the offsets, and the process dies too."""
    FORGET_ALL = "forget-all"
    """As FORGET_OFFSETS, but it forgets both: as if killed after it decided to commit."""
    FORGET_COMMIT = "forget-commit"
    """The broker answers a COMMIT and is killed; back, it forgets the markers, until an operator aborts."""


ALWAYS = (Fault.DIE, Fault.DIE_LONG, Fault.PAUSE, Fault.FREEZE, Fault.SLEEP, Fault.EXPEL)
"""Possible at every call."""

STALLS = {Fault.PAUSE: 2, Fault.FREEZE: 10, Fault.SLEEP: 18}
"""The rounds that a stall lasts; the timeouts in `world` lie between them."""


class Died(BaseException):
    """The process is dead: none of its lines may take effect."""


class Violated(AssertionError):
    """An invariant does not hold."""
