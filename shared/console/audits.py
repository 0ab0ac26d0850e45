"""The audit, when somebody asks for it: it reads whole topics, which no page may do by itself.

Each service has one at a time, on a thread of its own, bounded in time and in what it reads. What it found stays until
the next one, with its time: a topic that nobody has compared is not known to be well.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from ..audit.audit import Bounds, compare
from ..audit.report import KINDS, Report
from ..errors import ExactlyOnceError
from ..operations.maintenance import Context
from .estate import Known, reader
from .looks import words

BOUNDS = Bounds(seconds=60.0, records=1_000_000)
"""As long as somebody waits for a page, and 100 MB in TMPDIR. The command has no such limits."""
NAMED_MAX = 5
"""Findings of each kind on the page; the command names more."""
WORST = ("never", "twice", "unknown", "order", "positions", "open", "unpublished")
"""The kinds of findings: first what is lost, or done twice."""
MEANS = {
    "never": "The published position has passed them, and no topic has them: consumers lack them.",
    "twice": "Consumers without an inbox handle them twice. A producer elsewhere may use the service's name.",
    "unknown": "A restored backup, or a producer elsewhere that uses the service's name, has published them.",
    "order": "Consumers have seen a later event of the key before them.",
}
"""What findings mean that nothing else here would show."""


class Seen(NamedTuple):
    """What is known of a service by its audits."""

    since: datetime | None
    """When the one that runs began; None: none does."""
    report: Report | None
    """Of the last that came to its end; None: none has, since the console was started."""
    at: datetime | None
    """When the last one began that has ended, however."""
    failure: str
    """Why that has no report; empty if it has."""

    @property
    def state(self) -> str:
        """Its state, for the eye."""
        if self.since or self.report is None:
            return "bad" if self.failure and not self.since else "unknown"
        return "bad" if not self.report.clean or self.failure else "ok"

    @property
    def findings(self) -> list[tuple[str, int, list[str]]]:
        """What is wrong, the worst first: of each kind its words, its number, and some examples."""
        report = self.report
        if report is None:
            return []
        return [
            (
                KINDS[kind],
                report.counts[kind],
                [str(one) for one in report.findings if one.kind == kind and one.accepted_by is None][:NAMED_MAX],
            )
            for kind in WORST
            if report.counts[kind]
        ]


NEVER = Seen(None, None, None, "")


class Audits:
    """The audits of all services."""

    def __init__(self, known: Mapping[str, Known], run: Callable[[Known], Report] | None = None) -> None:
        self._known, self._run = known, run or _compare
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}

    def of(self, name: str) -> Seen:
        """Return what is known of a service."""
        return self._seen.get(name, NEVER)

    def start(self, name: str) -> bool:
        """Begin one; False if one runs already."""
        with self._lock:
            before = self.of(name)
            if before.since is not None:
                return False
            self._seen[name] = before._replace(since=datetime.now(UTC))
            thread = threading.Thread(target=self._work, args=(name,), name=f"console: audit of {name}", daemon=True)
            self._threads[name] = thread
        thread.start()
        return True

    def wait(self, seconds: float) -> None:
        """Wait for those that run."""
        for thread in list(self._threads.values()):
            thread.join(seconds)

    def _work(self, name: str) -> None:
        before, report, failure = self.of(name), None, ""
        try:
            report = self._run(self._known[name])
        except ExactlyOnceError as error:
            failure = str(error)
        except Exception as error:  # noqa: BLE001 - a server that is down, among others: it is shown
            failure = words(error)
        with self._lock:
            self._seen[name] = Seen(None, report or before.report, before.since, failure)


def _compare(known: Known) -> Report:
    """Compare, with a connection of its own: pages need theirs meanwhile."""
    settings = known.reading.settings
    engine = reader(settings, known.name)
    try:
        return compare(Context(settings, known.service, engine, known.reading.outbox), bounds=BOUNDS)
    finally:
        engine.dispose()
