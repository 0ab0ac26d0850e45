"""A reader that follows the topics with `read_committed` while orders flow, and measures what a subscriber sees."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Self

from dev.balance.topics import Partition, Topics


class Observer:
    """Follows the topics on a thread of its own, from the beginning on."""

    def __init__(self, bootstrap: str, services: Iterable[str]) -> None:
        self._topics = Topics(bootstrap)
        self._names = [f"{service}.events" for service in services]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._placed: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        """Events read, by type."""
        self.doubled = 0
        """Events read more than once."""
        self._ids: set[tuple[str, str]] = set()
        self.arrivals: defaultdict[Partition, list[float]] = defaultdict(list)
        """When records of a partition could be read, by `time.monotonic`."""
        self.latencies: list[float] = []
        """From the database's time of OrderPlaced until OrderConfirmed can be read."""
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        try:
            for record in self._topics.follow(self._names, lambda: not self._stopping.is_set()):
                now, clock = time.monotonic(), time.time()
                self.counts[record.type] += 1
                self.doubled += (record.topic, record.id) in self._ids
                self._ids.add((record.topic, record.id))
                self.arrivals[record.topic, record.partition].append(now)
                if record.type == "OrderPlaced":
                    self._placed[record.key] = datetime.fromisoformat(record.time).timestamp()
                elif record.topic == "order.events":
                    placed = self._placed.pop(record.key, None)
                    if placed is not None and record.type == "OrderConfirmed":
                        self.latencies.append(clock - placed)
        except Exception as error:  # noqa: BLE001 - it belongs to the main thread, which looks here
            self.error = error
