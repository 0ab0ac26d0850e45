"""A thread that checks whether the topics are still those that the positions belong to.

A topic that is deleted and created again has the same name, and soon offsets that look like the old ones: only its id
differs. Clients do not report that in time, so this thread asks.
"""

import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from ..errors import Misconfigured, Stop, Unavailable
from ..telemetry.metrics import log

LOOK_SECONDS = 25.0
"""Between two looks: one request to one broker, and three rows of PostgreSQL. Changes are seen within half a minute."""


class TopicWatch:
    """Calls `look` periodically; the worker has to prove its findings."""

    def __init__(self, look: Callable[[], Stop | None]) -> None:
        self._look = look
        self._ending = threading.Event()
        self._found: Stop | None = None
        threading.Thread(target=self._run, name="topics", daemon=True).start()

    def take(self) -> Stop | None:
        """Return a finding, once."""
        found, self._found = self._found, None
        return found

    def stop(self) -> None:
        """Stop after the current look."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            try:
                self._found = self._look()
            except (Unavailable, Misconfigured, SQLAlchemyError) as error:
                log.debug("topics_not_seen", detail=str(error))
