"""Housekeeping, beside the worker's main loop: deletes rows older than their retention."""

import threading

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ..postgres import claim_log, dead_letters, inbox
from ..postgres.slots import LOCK_CLASS
from ..settings import Settings
from ..telemetry.metrics import log

PRUNE_SECONDS = 30.0
"""Seconds between two prunings."""
ROWS = 5_000
"""Rows deleted in one transaction: that takes milliseconds, and holds no lock that a batch waits for."""
ROUNDS_MAX = 200
"""Transactions per period: a million rows, more than a worker can add meanwhile."""
LOCK = -1
"""The advisory lock of the one worker that prunes; slots are never negative."""

_PRUNE_KEYS = text("""
    DELETE FROM exactly_once_idempotency_key WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM exactly_once_idempotency_key
        WHERE created_at < clock_timestamp() - make_interval(secs => :seconds) LIMIT :rows
    ))
""")


class Housekeeping:
    """A thread that prunes the inbox, the claim log, dead letters and idempotency keys; one worker of a service at a
    time.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._inbox_seconds = settings.inbox_retention_hours * 3_600
        self._keys_seconds = settings.idempotency_retention_hours * 3_600
        self._dead_letters_seconds = settings.dead_letter_retention_hours * 3_600
        self._claim_log_seconds = settings.audit_retention_hours * 3_600
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start, unless already started."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Stop after the current transaction."""
        self._stopping.set()

    def clean(self) -> int:
        """Delete expired rows now and return their number; 0 while another worker holds the lock."""
        deleted = 0
        for _ in range(ROUNDS_MAX):
            with self._engine.begin() as connection:
                lock = text("SELECT pg_try_advisory_xact_lock(:class, :lock)")
                if not connection.execute(lock, {"class": LOCK_CLASS, "lock": LOCK}).scalar_one():
                    break
                step = inbox.prune(connection, self._inbox_seconds, ROWS)
                step += claim_log.prune(connection, self._claim_log_seconds, ROWS)
                step += dead_letters.prune(connection, self._dead_letters_seconds, ROWS)
                step += connection.execute(_PRUNE_KEYS, {"seconds": self._keys_seconds, "rows": ROWS}).rowcount
            deleted += step
            if step == 0 or self._stopping.is_set():
                break
        return deleted

    def _run(self) -> None:
        while not self._stopping.wait(PRUNE_SECONDS):
            try:
                if deleted := self.clean():
                    log.info("pruned", rows=deleted)
            except SQLAlchemyError as error:
                log.warning("housekeeping_failed", detail=str(error))
