"""Everything that is shown now: flows, problems, and the live parts of both pages."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..operations.output import age
from . import flow, pages, picture, problems
from .audits import Audits, Seen
from .beside import File
from .estate import Absent, Known
from .flow import Flow
from .looks import Watch
from .pages import Fragments, Live
from .problems import Problem
from .sight import FLOW_SECONDS, KEYS_MAX, PROBLEMS_SECONDS, STALE_SECONDS, Sight, Tables, Waits

Page = Literal["flow", "problems"]
PATIENCE_SECONDS = 1.5
"""How long a page waits for the first answers; what is not there by then follows."""


class Mark(NamedTuple):
    """How much waits."""

    number: int
    more: bool = False
    """Whether more waits than was looked at."""

    def __str__(self) -> str:
        return f"{self.number:,}{'+' if self.more else ''}"


class Board:
    """What a console shows of its services."""

    def __init__(self, services: Sequence[Known | Absent], beside: Path | None = None) -> None:
        """`beside` is a file with numbers of somebody else."""
        self.watch = Watch()
        self.beside = File(beside, self.watch) if beside is not None else None
        self.sights = {one.name: Sight(one, self.watch) for one in services if isinstance(one, Known)}
        self.absent = [one for one in services if isinstance(one, Absent)]
        self.picture = picture.draw(sight.known for sight in self.sights.values())
        self.audits = Audits(self.known)
        self._lives: dict[Page, tuple[float, Fragments]] = {}

    def start(self) -> None:
        """Let the looks begin: they wait until somebody watches."""
        for sight in self.sights.values():
            for look in sight.looks:
                look.start()
        if self.beside is not None:
            self.beside.look.start()

    @property
    def known(self) -> dict[str, Known]:
        """The services, by name."""
        return {name: sight.known for name, sight in self.sights.items()}

    def await_first(self) -> None:
        """Wait a moment for the first look at what flows."""
        self.watch.touch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for sight in self.sights.values():
            for look in (sight.tables, sight.topics):
                look.fresh(STALE_SECONDS, max(deadline - time.monotonic(), 0.0))

    def facts(self, page: Page) -> tuple[dict[str, Any], Live]:
        """Return what the templates of a page are filled with."""
        live = Live()
        flows = {name: flow.of(sight) for name, sight in self.sights.items()}
        found, marks = self._problems(flows), self.marks()
        return {
            "page": page,
            "live": live,
            "flows": flows,
            "absent": self.absent,
            "topic_rates": _rates(flows),
            "picture": self.picture,
            "beside": self.beside.shown() if self.beside is not None else None,
            "problems": found,
            "levels": [
                (level, problems.WORDS[level], [p for p in found if p.level == level]) for level in problems.ORDER
            ],
            "counts": problems.counts(found),
            "unseen": [name for name, sight in self.sights.items() if not problems.is_known(sight)],
            "marks": marks,
            "sums": {of: _sum(one) for of, one in marks.items()},
            "audits": self._audits(),
            "age": age,
            "looks": {"flow": FLOW_SECONDS, "problems": PROBLEMS_SECONDS},
        }, live

    def fragments(self, page: Page) -> Fragments:
        """Return the live parts of a page, made once for all who watch."""
        at, found = self._lives.get(page, (0.0, {}))
        if time.monotonic() - at < FLOW_SECONDS / 2:
            return found
        facts, live = self.facts(page)
        pages.render("_live.html", facts)
        self._lives[page] = (time.monotonic(), live.fragments)
        return live.fragments

    def marks(self) -> dict[str, dict[str, Mark | None]]:
        """Return how much of each service waits for somebody, for the pages with a tab for each; None if not known."""
        letters: dict[str, Mark | None] = {}
        waiting: dict[str, Mark | None] = {}
        for name, sight in self.sights.items():
            waits, tables = sight.waits.known(problems.KNOWN_SECONDS), sight.tables.known(problems.KNOWN_SECONDS)
            letters[name] = Mark(sum(one.number for one in waits.dead_letters)) if waits else None
            waiting[name] = _waiting(waits, tables) if waits and tables else None
        return {"dead-letters": letters, "waiting": waiting}

    def first(self, page: str) -> str:
        """Return the service whose tab a page opens: the first of which something waits; empty if there is none."""
        marks = self.marks().get(page, {})
        return next((name for name, mark in marks.items() if mark and mark.number), next(iter(self.known), ""))

    def _audits(self) -> list[tuple[str, Seen, str]]:
        """Return the audit of each service, with its command, the worst first."""
        order = ("bad", "unknown", "ok")
        found = [(name, self.audits.of(name), one.reading.command("audit")) for name, one in self.known.items()]
        return sorted(found, key=lambda each: (order.index(each[1].state), each[0]))

    def _problems(self, flows: dict[str, Flow]) -> list[Problem]:
        found = [problems.of_absent(one) for one in self.absent]
        for name, sight in self.sights.items():
            found += problems.of(sight, flows[name])
            found += problems.of_audit(sight.known, self.audits.of(name))
        return problems.in_order(found)


def _waiting(waits: Waits, tables: Tables) -> Mark:
    """Count what stands on the page of what waits, and asks for somebody."""
    seen = (len(waits.keys), len(waits.stuck_calls))
    return Mark(sum(min(one, KEYS_MAX) for one in seen) + len(tables.paused), more=max(seen) > KEYS_MAX)


def _sum(marks: dict[str, Mark | None]) -> str:
    """Return how much waits, as far as it is known; empty for nothing."""
    known = [mark for mark in marks.values() if mark is not None]
    counted = Mark(sum(mark.number for mark in known), more=any(mark.more for mark in known))
    unknown = len(known) < len(marks)
    return " + ".join([*([str(counted)] if counted.number else []), *(["unknown"] if unknown else [])])


def _rates(flows: dict[str, Flow]) -> dict[str, float | None]:
    """Return how much is published on each topic, as the first service sees it that knows."""
    found: dict[str, float | None] = {}
    for one in flows.values():
        for topic, per_second in one.topics_per_second.items():
            if found.get(topic) is None:
                found[topic] = per_second
    return found
