"""The wake-up at commit: who inserts the only row that waits notifies the process that is to take it.

The notification is sent by the statement that inserts the row (`shared.postgres.outbox`, `shared.calls.outbox`), so it
comes with the commit. A listener, on a thread and a connection of its own, hears it. Nothing depends on it: a process
that heard nothing looks all the same, seldom while its listener proves that it listens, and often while it does not
(behind a pooler that gives each transaction another session, say).
"""

import select
import threading
import time
from collections.abc import Callable, Collection

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ..telemetry.failures import LOGGED_MAX
from ..telemetry.metrics import log
from .outbox import CHANNEL, Outbox

PROOF_SECONDS = 5.0
"""Between two proofs: one statement that writes nothing, on a session that would be idle."""

PROVEN_SECONDS = 3 * PROOF_SECONDS
"""How long a proof lasts. The next ones may be late on a busy machine; a server that does not answer is noticed by TCP
before it ends (`TCP_TIMEOUT_MS` in engine.py).
"""

AGAIN_SECONDS = 1.0
"""Before a lost listener connects again."""

_LISTENS = text("SELECT EXISTS (SELECT FROM pg_listening_channels() AS channel WHERE channel = :channel)")


class Listener:
    """Hears what is notified on one channel."""

    def __init__(self, engine: Engine, channel: str, heard: Callable[[str | None], None]) -> None:
        """`heard` is called on the listener's thread with each payload; with None when something may have been missed,
        or a wait that counted on the listener should end.
        """
        self._engine = engine
        self._channel = channel
        self._heard = heard
        self._proven_until = float("-inf")
        self._lost = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wakeup", daemon=True)

    def start(self) -> None:
        """Start, unless already started."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop after the current wait."""
        self._stopping.set()

    def listens(self) -> bool:
        """Return whether the listener has proven lately that it would hear a notification."""
        return time.monotonic() < self._proven_until

    def _run(self) -> None:
        while not self._stopping.is_set():
            detail = "the session listens no more"
            try:
                self._listen()
            except (SQLAlchemyError, psycopg.Error) as error:
                detail = str(getattr(error, "orig", error))
            self._proven_until = float("-inf")
            self._heard(None)  # a wait that counted on it ends
            if not self._stopping.is_set() and not self._lost:
                self._lost = True
                log.warning(
                    "wakeup_lost", detail=detail[:LOGGED_MAX], note="the database is asked more often meanwhile"
                )
            self._stopping.wait(AGAIN_SECONDS)

    def _listen(self) -> None:
        """Listen until asked to stop, or until the session listens no more. Raises what the connection raises."""
        connection = self._engine.connect()
        try:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(f"LISTEN {self._channel}"))
            self._heard(None)  # nobody heard of what was committed before
            while not self._stopping.is_set() and self._proves(connection):
                self._hear(connection)
        finally:
            connection.invalidate()  # in the pool it would go on listening
            connection.close()

    def _proves(self, connection: Connection) -> bool:
        if not connection.execute(_LISTENS, {"channel": self._channel}).scalar_one():
            return False
        self._proven_until = time.monotonic() + PROVEN_SECONDS
        if self._lost:
            self._lost = False
            log.info("wakeup_back")
        return True

    def _hear(self, connection: Connection) -> None:
        """Hear what is said until the next proof is due. psycopg's own wait would wake ten times a second."""
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        speaks = select.poll()
        speaks.register(raw.fileno(), select.POLLIN)
        due = time.monotonic() + PROOF_SECONDS
        while not self._stopping.is_set() and (left := due - time.monotonic()) > 0:
            for notification in raw.notifies(timeout=0):
                self._heard(notification.payload)
            speaks.poll(1_000 * left)


class Wakeup(Listener):
    """Listens for rows that requests, and other workers, insert into this worker's lanes."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        super().__init__(engine, CHANNEL, self._wake)
        self._outbox = outbox
        self._lanes: frozenset[int] = frozenset()
        self.woken = False
        """Set by a notification; whoever waits resets it, and then asks the outbox. No lock: it is set within signal
        handlers and read by the thread that they interrupt.
        """

    def own(self, lanes: Collection[int]) -> None:
        """Hear of `lanes` from now on. What this process itself inserts into them notifies nobody: it publishes that
        next.
        """
        self._lanes = self._outbox.published_here = frozenset(lanes)

    def _wake(self, payload: str | None) -> None:
        if payload is None or any(int(lane) in self._lanes for lane in payload.split(",") if lane.isdecimal()):
            self.woken = True
