"""The watchdog: ends the process when one piece of work takes longer than its budget.

Some calls of the Kafka client ignore their timeout (librdkafka #5456) and cannot be interrupted from Python. A process
that ends leaves everything as a crash does, and a crash is what the protocol is made for.
"""

import os
import threading
import time

from shared.telemetry import log
from shared.waits import MAIN_LOOP

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: start me again."""

TICK_SECONDS = 0.2


class Watchdog:
    """Counts down while the process runs. Time in which the whole process was frozen does not count: on waking it shall
    recover, not die.
    """

    def __init__(self) -> None:
        self._left = float("inf")
        self._what = ""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def allow(self, what: str, seconds: float) -> None:
        """Allow `what` to take up to `seconds` from now on; it replaces what was allowed before."""
        self._what = what
        self._left = seconds

    def rest(self) -> None:
        """Watch nothing until the next `allow`."""
        self._left = float("inf")

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(TICK_SECONDS)
            MAIN_LOOP.tell()
            self._left -= min(time.monotonic() - before, 2 * TICK_SECONDS)
            if self._left < 0:
                log.critical(
                    "watchdog",
                    what=self._what,
                    note="the budget is used up; the process ends and shall be started again",
                )
                os._exit(EXIT_CODE)
