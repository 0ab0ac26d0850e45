"""How a worker gets its slot: it stands by until one is free, and checks that it still holds it."""

import time

from ..errors import Unavailable
from ..postgres.slots import SETTLE_SECONDS
from ..postgres.transaction import WorkerDatabase
from ..telemetry import outages
from ..telemetry.metrics import log
from .backoff import Backoff
from .health import Health
from .stopping import Stopping

STANDBY_SECONDS = 0.2
"""How often a worker without a slot asks for one: one short statement. With a standby, half of it is how long a killed
worker goes unnoticed.
"""

DOWN_SECONDS = 1.0
"""The longest wait before it asks a database again that has not answered."""


class Standby:
    """Asks for one of `slots` slots, until one is free or the process is asked to stop."""

    def __init__(
        self, database: WorkerDatabase, slots: int, health: Health, backoff: Backoff, stopping: Stopping
    ) -> None:
        self._database = database
        self._slots = slots
        self._health = health
        self._backoff = backoff
        self._stopping = stopping

    def take_slot(self) -> bool:
        """Take a slot, or stand by until one is free; return False if asked to stop meanwhile."""
        settled, asked_at = False, 0.0
        while not self._stopping.is_set():
            wait = STANDBY_SECONDS
            try:
                if not settled:
                    wait = self._database.settle_seconds()
                    if not asked_at:
                        asked_at = time.monotonic()
                        if wait > 0:
                            self._log_settling()
                    # By our clock too: the server's may have been set back, so that its start lies in the future.
                    wait = min(wait, SETTLE_SECONDS - (time.monotonic() - asked_at))
                    settled = wait <= 0
                if settled:
                    if self._database.take_slot():
                        return True
                    wait = STANDBY_SECONDS
                    self._stand_by()
                outages.DATABASE.answered("worker")
            except Unavailable as error:
                self._backoff.missed(error, DOWN_SECONDS)
                continue
            self._stopping.wait(min(wait, STANDBY_SECONDS))
        return False

    def keep_slot(self) -> None:
        """Check that the slot is still ours, before new clients replace the old ones in the group and at the
        transaction coordinator. Raises `SlotLost`: then another worker holds it, rightfully.
        """
        while not self._stopping.is_set():
            try:
                self._database.hold_slot()
            except Unavailable as error:
                self._backoff.missed(error)
            else:
                return

    def _log_settling(self) -> None:
        what = f"PostgreSQL has just started: for {SETTLE_SECONDS:.0f} s its earlier workers take their slots first"
        self._health.enter("starting", what)
        log.info("settling", seconds_max=SETTLE_SECONDS, note=what)

    def _stand_by(self) -> None:
        if not self._health.is_ready:
            note = "all slots are taken; this worker takes the next free one"
            log.info("standby", slots=self._slots, note=note)
        self._health.standing_by()
