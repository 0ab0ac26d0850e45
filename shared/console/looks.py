"""Questions that are asked again and again while somebody watches, each on a thread of its own.

Nobody watches: nothing is asked, and clients are closed. A server that hangs holds up its own question alone.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy.exc import DBAPIError

from ..telemetry.logs import log

WATCHED_SECONDS = 15.0
"""How long a page that was asked for counts as watched."""
REASON_MAX = 1_000
"""Characters of a reason why there is no answer."""
OTHER_TABLES = ("42P01", "42703")
"""What PostgreSQL says of a table, or a column, that is not there."""
MIGRATE = (
    ". Its tables are not those of this release: `migrate` brings them up to date, and `doctor` says what is missing"
)

Found = TypeVar("Found")


def words(error: Exception) -> str:
    """Return the reason in words, without a statement."""
    told = f"PostgreSQL: {error.orig}" if isinstance(error, DBAPIError) else str(error) or type(error).__name__
    other = isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in OTHER_TABLES
    return f"{' '.join(told.split())[:REASON_MAX]}{MIGRATE if other else ''}"


class Watch:
    """Whether somebody watches."""

    def __init__(self) -> None:
        self._until = 0.0
        self._changed = threading.Condition()
        self.ended = False

    def touch(self) -> None:
        """Somebody watches now."""
        with self._changed:
            self._until = time.monotonic() + WATCHED_SECONDS
            self._changed.notify_all()

    def end(self) -> None:
        """Let all threads end."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    @property
    def watched(self) -> bool:
        """Whether somebody watches."""
        return not self.ended and time.monotonic() < self._until

    def wait(self) -> None:
        """Wait until somebody watches, or the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or time.monotonic() < self._until)

    def rest(self, seconds: float) -> None:
        """Wait for some seconds, or the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended, seconds)


class Answer(NamedTuple, Generic[Found]):
    """What was found, and when."""

    found: Found
    at: float

    @property
    def seconds(self) -> float:
        """Its age."""
        return time.monotonic() - self.at


class Look(Generic[Found]):
    """One question."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], Found],
        *,
        every: float,
        watch: Watch,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """`rest` closes what `ask` has opened, once nobody watches any more, or it fails."""
        self.name = name
        self._ask, self._rest = ask, rest
        self._every, self._watch = every, watch
        self.answer: Answer[Found] | None = None
        """The last one."""
        self.failure = ""
        """Why the last question has no answer; empty if it has."""
        self._asked: float | None = None
        self._number = 0
        """Counts the questions that came to an end."""
        self._done = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"console: {name}", daemon=True)

    def start(self) -> None:
        """Start its thread, once."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def silent_seconds(self) -> float:
        """For how long a question has been waiting for its answer; 0 if none does."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def known(self, seconds: float) -> Found | None:
        """Return what was found, unless it is older than this."""
        answer = self.answer
        return answer.found if answer is not None and answer.seconds <= seconds else None

    def fresh(self, seconds: float, patience: float) -> None:
        """Wait until there is an answer that is not older, or there was a question in vain; at most for `patience`."""
        asked = self._number
        self._watch.touch()
        with self._done:
            self._done.wait_for(lambda: self.known(seconds) is not None or self._number > asked, patience)

    def _run(self) -> None:
        while not self._watch.ended:
            if not self._watch.watched:
                self._close()
                self._watch.wait()
                continue
            began = time.monotonic()
            self.once()
            self._watch.rest(max(self._every - (time.monotonic() - began), self._every / 4))
        self._close()

    def once(self) -> None:
        """Ask once."""
        self._asked = time.monotonic()
        try:
            found = self._ask()
        except Exception as error:  # noqa: BLE001 - it is shown, and asked again
            reason = words(error)
            if not self.failure:
                log.warning("console_look_failed", look=self.name, detail=reason)
            self.failure = reason
            self._close()
        else:
            self.answer = Answer(found, time.monotonic())
            self.failure = ""
        self._asked = None
        with self._done:
            self._number += 1
            self._done.notify_all()

    def _close(self) -> None:
        with suppress(Exception):
            self._rest()
