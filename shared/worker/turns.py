"""How long each turn of the main loop waits for records before it asks the outbox, and which of them report."""

from math import inf
from typing import NamedTuple

WAIT_MIN, WAIT_MAX = 0.005, 0.1
"""Seconds that a worker which nobody would wake waits for records before it checks the outbox again: short after work,
then longer and longer.

A worker that would be woken waits for the longest of them even after a batch of records: it knows of almost all rows.
"""

WAIT_TOLD = 0.02
"""That wait once it has found a row, or was told of one: a request that came meanwhile may have counted on that, and
told nobody (`_INSERT` in postgres/outbox.py). It commits within milliseconds: its insert is sent with its COMMIT.
"""

WAIT_GROWTH = 4
"""How much longer each wait is than the one before."""

REPORT_SECONDS = 1.0
"""How often next offsets are reported to Kafka when nothing is published. Lag tools read them; the protocol does not
need them. It is also the longest wait, of a worker that would be woken: a row may have notified nobody (its request
committed late, or the notification was lost).
"""


class Turn(NamedTuple):
    """What one turn does."""

    seconds: float
    """How long it waits for records."""
    report: bool


class Turns:
    """The turns of the main loop, one after the other."""

    def __init__(self) -> None:
        self._wait = WAIT_MIN
        self._report_due = float("-inf")
        self._unreported = False

    def begin(self, now: float, due_seconds: float = inf) -> Turn:
        """Return the next turn, which waits no longer than until a scheduled event is due. If it fails, the one after
        it waits as after work.
        """
        wait, self._wait = min(self._wait, due_seconds), WAIT_MIN
        if now < self._report_due:
            return Turn(min(wait, self._report_due - now), report=False)
        # The report comes after the wait for records, so one that has something to say does not wait long.
        turn = Turn(WAIT_MIN if self._unreported else wait, report=True)
        self._report_due, self._unreported = now + REPORT_SECONDS, False
        return turn

    def publish_now(self) -> None:
        """Note that rows wait: written outside a turn, or left by a full claim. The next turn takes them."""
        self._wait = 0.0

    def end(self, turn: Turn, now: float, *, idle: bool, wakes: bool, knows: bool) -> None:
        """Note that `turn` found nothing to do, or something; whether a new row would now end a wait (`wakes`); and
        whether hardly a row can wait that nobody told of (`knows`): `turn` had neither found one in the outbox, nor
        been told of one.
        """
        if idle and knows:
            self._wait = min(WAIT_GROWTH * max(turn.seconds, WAIT_MIN), REPORT_SECONDS if wakes else WAIT_MAX)
        elif wakes:
            self._wait = WAIT_MAX if knows else WAIT_TOLD
        if idle:
            return
        if turn.report:
            self._report_due = now + REPORT_SECONDS  # it may have waited long before
        else:
            self._unreported = True
