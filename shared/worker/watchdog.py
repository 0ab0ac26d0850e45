"""The watchdog: ends the process when one piece of work takes longer than its budget.

Some calls of the Kafka client ignore their timeout (librdkafka #5456) and cannot be interrupted from Python. Ending the
process leaves the state of a crash, and the protocol is built for crashes.
"""

import os
import threading
import time
from collections.abc import Callable

from ..telemetry.metrics import log
from ..telemetry.waits import MAIN_LOOP

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: restart me."""

TICK_SECONDS = 0.2

LAST_WORDS_SECONDS = 5.0
"""For noting what it was working on; a database that does not answer must not keep a stuck process alive."""


class Watchdog:
    """Counts down while the process runs. Time spent frozen (SIGSTOP) does not count, so that a resumed process
    recovers instead of exiting.
    """

    def __init__(self, last_words: Callable[[str], dict[str, object]] = lambda _: {}, *, off: bool = False) -> None:
        self._off = off
        self._last_words = last_words
        """Returns more fields to log; it may take `LAST_WORDS_SECONDS`."""
        self._left = float("inf")
        self._what = ""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def allow(self, what: str, seconds: float) -> None:
        """Allow `what` to take up to `seconds` from now on; this replaces the previous budget."""
        self._what = what
        self._left = float("inf") if self._off else seconds

    def rest(self) -> None:
        """Watch nothing until the next `allow`."""
        self._left = float("inf")

    def _log(self) -> dict[str, object]:
        words: dict[str, object] = {}
        logging_now = threading.Thread(target=lambda: words.update(self._last_words(self._what)), daemon=True)
        logging_now.start()
        logging_now.join(LAST_WORDS_SECONDS)
        return dict(words)

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(TICK_SECONDS)
            MAIN_LOOP.tell()
            self._left -= min(time.monotonic() - before, 2 * TICK_SECONDS)
            if self._left < 0:
                waits = {"detail": waited} if (waited := MAIN_LOOP.words()) else {}
                words = self._log()
                log.critical(
                    "watchdog",
                    what=self._what,
                    **waits,
                    **words,
                    note="the budget is used up; the process ends, to be restarted",
                )
                os._exit(EXIT_CODE)
