"""Which topics are paused, as this process has read it last."""

import threading
from collections.abc import Iterable


class Paused:
    """The paused topics. The observer reads them every few seconds, and the main loop after each takeover."""

    def __init__(self) -> None:
        self._known: tuple[float, frozenset[str]] = (float("-inf"), frozenset())
        self._noting = threading.Lock()

    @property
    def topics(self) -> frozenset[str]:
        """What was read last. It stays while PostgreSQL does not answer."""
        return self._known[1]

    def note(self, topics: Iterable[str], asked: float) -> None:
        """Note what PostgreSQL was asked for at a moment of the monotonic clock; an answer to an earlier question does
        not count any more.
        """
        with self._noting:
            if asked >= self._known[0]:
                self._known = (asked, frozenset(topics))
