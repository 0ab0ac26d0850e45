"""The time budget of one batch's handlers. A handler that exceeds it is interrupted, and its batch is rolled back.

A timer's signal raises an exception in the handler, but never inside the database driver or the library, where it would
leave something half done. There the running statement is cancelled at the server, and the exception waits until the
handler's own code resumes. What a signal cannot interrupt is left to the watchdog.

It is armed only for steps 2.3 and 2.4 of the cycle. Once the budget is used up the transaction can no longer commit,
so no half-done work is kept.
"""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseUnavailable, HandlerTooSlow, HandlingFailed

TICK_SECONDS = 0.3
"""Interval between checks of the time. As with the watchdog, a pause of the whole process counts as two ticks at most:
a frozen process must not blame its current record. A tick exceeds the 0.1 s after which psycopg checks for signals:
each signal restarts its wait, so with shorter ticks it would never check.
"""

CANCELS_MAX = 10
"""Most statements to cancel; a handler that goes on after that is left to the watchdog."""

FLUSH_SECONDS_MIN = 0.5
"""Minimum for a flush, however long its handlers took."""

CANCELLED = frozenset({"57014", "25P02"})
"""query_canceled, and in_failed_sql_transaction: the handler went on after it."""

_DATABASE = frozenset({"psycopg", "psycopg_binary", "sqlalchemy"})

P = ParamSpec("P")
T = TypeVar("T")


class Interrupt(BaseException):
    """Raised in a handler; not an `Exception`, so that `except Exception` does not catch it."""


class Deadline:
    """The budget of one batch at a time. Does nothing until `install` is called, in the main thread.

    `cancel` cancels the running statement of the worker's session and returns whether it waited for a lock.
    """

    def __init__(self, seconds: float = 0, cancel: Callable[[], bool] = lambda: False) -> None:
        self._seconds = seconds
        self._cancel = cancel
        self._installed = False
        self._armed = False
        self._left = seconds
        self._last = 0.0
        self._cancels = 0
        self._cancelling = False
        """Whether a tick is at it: it takes longer than a tick on a slow machine, and shares one session."""
        self._locked = False
        self.passed = False
        """Whether the budget is used up."""

    def install(self) -> None:
        """Take SIGALRM."""
        signal.signal(signal.SIGALRM, self._tick)
        self._installed = True

    def renew(self) -> None:
        """Restore the full budget for a new batch."""
        self._left, self._cancels, self._locked, self.passed = self._seconds, 0, False, False

    def __enter__(self) -> None:
        if self._installed and self._seconds:
            self._left = max(self._left, FLUSH_SECONDS_MIN)
            self._last, self._armed = time.monotonic(), True
            signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._armed:
            return
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not self.passed:
            self._left -= time.monotonic() - self._last
            return
        record, cause = (error.record, error.__cause__) if isinstance(error, HandlingFailed) else (None, error)
        if isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in CANCELLED:
            if self._locked:
                # The lock's holder is slow, not this record.
                raise DatabaseUnavailable("a handler waited for a lock until its budget was used up") from cause
            cause = self.too_slow().with_traceback(cause.__traceback__)
        elif cause is None:
            cause = self.too_slow()
        if isinstance(cause, HandlerTooSlow):
            raise HandlingFailed(record) from cause

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an interruptible `function`. Raises `HandlerTooSlow` once the budget is used up."""
        try:
            result = function(*args, **kwargs)
        except Interrupt as interrupt:
            raise self.too_slow().with_traceback(interrupt.__traceback__) from None
        if self.passed:
            raise self.too_slow()
        return result

    def too_slow(self) -> HandlerTooSlow:
        """Return the error for a spent budget."""
        return HandlerTooSlow(f"not done within HANDLER_SECONDS_MAX = {self._seconds:g}")

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        # Nothing here may log: the interrupted code may hold the lock of the log.
        if not self._armed or self._cancelling:
            return
        now = time.monotonic()
        self._left -= min(now - self._last, 2 * TICK_SECONDS)
        self._last = now
        if self._left > 0:
            return
        self.passed = True
        if frame is not None and in_database(frame):
            if self._cancels < CANCELS_MAX:
                self._cancels += 1
                self._cancelling = True
                try:
                    self._locked = self._cancel() or self._locked
                finally:
                    self._cancelling = False
        elif frame is not None and self._may_interrupt(frame):
            raise Interrupt

    def _may_interrupt(self, frame: FrameType) -> bool:
        """Whether `frame` is below `call`, inside its `try`, and not below the database's library."""
        marker = Deadline.call.__code__
        if frame.f_code is marker:
            return False
        following: FrameType | None = frame
        while following is not None:
            if following.f_code is marker:
                return True
            if _package(following) in _DATABASE:
                return False
            following = following.f_back
        return False


def in_database(frame: FrameType) -> bool:
    """Whether a thread with this innermost frame is waiting for the database."""
    return _package(frame) in _DATABASE


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
