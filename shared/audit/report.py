"""The audit's report: counts, the first examples of each kind, and what could not be compared."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from ..operations.output import age, as_json, columns, echo

EXAMPLES = 20
"""Findings of each kind that are named; all are counted."""

EVERYTHING = 100_000
"""With --all: 50 MB of findings."""

KINDS = {
    "twice": "events published twice",
    "never": "events never published",
    "unknown": "events that this database never decided",
    "order": "events out of order within their key",
    "positions": "positions that disagree",
    "open": "transactions that do not end",
    "unpublished": "lanes whose events stay unpublished",
}


@dataclass
class Finding:
    """One thing found wrong."""

    kind: str
    detail: str
    where: str | None = None
    """A record, `topic[partition]@offset`; a partition; or a topic."""
    event_id: str | None = None
    key: str | None = None
    """Known for an unknown record and for what a decision about a lane remembers. Otherwise the database keeps only
    the ids of events.
    """
    event_type: str | None = None
    lane: int | None = None
    position: int | None = None
    place: int | None = None
    """The event's place in the ledger; its id, lane and position are looked up by it at the end."""
    accepted_by: int | None = None
    """The number of the decision that explains it."""

    def __str__(self) -> str:
        facts = (
            self.where,
            None if self.key is None else f"key {self.key}",
            self.event_type,
            self.event_id,
            None if self.lane is None else f"lane-{self.lane}",
            None if self.position is None else f"position {self.position}",
            self.detail,
            None if self.accepted_by is None else f"accepted by decision {self.accepted_by}",
        )
        return "  ".join(fact for fact in facts if fact)


@dataclass
class Report:
    """The whole report."""

    service: str
    at: datetime
    most: int = EXAMPLES
    """Findings of each kind that are named."""
    records: int = 0
    ours: int = 0
    claims: int = 0
    events: int = 0
    known_since: float = math.inf
    seconds: float = 0.0
    lag: int = 0
    unpublished: int = 0
    oldest_unpublished: float | None = None
    scheduled: int = 0
    """Events that wait for their moment."""
    parked: int = 0
    """Records that wait with their keys: consumed, and not handled yet."""
    oldest_parked: float | None = None
    open: dict[str, float] = field(default_factory=dict)
    """The age of each transaction that was open for more than a moment, by its partition."""
    counts: Counter[str] = field(default_factory=Counter)
    """Findings by kind."""
    accepted: Counter[str] = field(default_factory=Counter)
    """Findings that a decision accepted, by kind."""
    decisions: set[int] = field(default_factory=set)
    """Those that accepted findings."""
    findings: list[Finding] = field(default_factory=list)
    not_compared: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Count a finding; keep it if it is one of the first."""
        counts = self.counts if finding.accepted_by is None else self.accepted
        counts[finding.kind] += 1
        if counts[finding.kind] <= self.most:
            self.findings.append(finding)
        if finding.accepted_by is not None:
            self.decisions.add(finding.accepted_by)

    @property
    def clean(self) -> bool:
        """Whether decisions have accepted all findings."""
        return not self.counts

    @property
    def per_second(self) -> float:
        """Records read and compared per second of the whole audit."""
        return self.records / max(self.seconds, 0.001)

    def as_json(self) -> None:
        """Print it for programs."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            del finding["place"]
        as_json(
            {
                "service": self.service,
                "at": self.at.isoformat(),
                "clean": self.clean,
                "counts": {kind: self.counts[kind] for kind in KINDS},
                "accepted": {kind: self.accepted[kind] for kind in KINDS},
                "findings": findings,
                "not_compared": dict(self.not_compared),
                "records": self.records,
                "records_of_ours": self.ours,
                "claims": self.claims,
                "events_claimed": self.events,
                "known_since": _time(self.known_since),
                "seconds": round(self.seconds, 3),
                "per_second": round(self.per_second),
                "lag": self.lag,
                "unpublished": self.unpublished,
                "oldest_unpublished_seconds": self.oldest_unpublished,
                "scheduled": self.scheduled,
                "parked": self.parked,
                "oldest_parked_seconds": self.oldest_parked,
                "open_transactions_seconds": self.open,
            }
        )

    def print(self) -> None:
        """Print it for people."""
        echo(f"The audit of {self.service} at {self.at:%Y-%m-%d %H:%M:%S} UTC")
        echo()
        rows = [(words, f"{self.counts[kind]:,}".rjust(5), self._result(kind)) for kind, words in KINDS.items()]
        columns(("", "FOUND", ""), [(f"  {words}", count, result) for words, count, result in rows])
        echo()
        for line in self._facts():
            echo(line)
        if self.findings:
            self._print_findings()
        kinds = len(self.counts)
        echo()
        if self.accepted:
            by = " and ".join(map(str, sorted(self.decisions)))
            echo(f"{self.accepted.total():,} findings stay, accepted by decision {by}, which `decisions list` shows.")
        if not self.clean:
            echo(f"{kinds} of {len(KINDS)} rows are NOT ok.")
        else:
            echo("Nothing else is wrong." if self.accepted else "Nothing is wrong.")

    def _result(self, kind: str) -> str:
        result = "NOT ok" if self.counts[kind] else "ok"
        return f"{result}, and {self.accepted[kind]:,} accepted" if self.accepted[kind] else result

    def _facts(self) -> list[str]:
        since = _time(self.known_since)
        oldest = "" if self.oldest_unpublished is None else f", the oldest for {age(self.oldest_unpublished)}"
        known = f"since {since}" if since else "yet"
        lines = [
            f"{self.ours:,} of {self.records:,} records are this service's, {self.per_second:,.0f} records/s; "
            f"{self.events:,} events in {self.claims:,} claims {known}",
            f"{self.lag:,} offsets still to be handled; {self.unpublished:,} events still to be published{oldest}; "
            f"{self.scheduled:,} scheduled for later",
        ]
        if self.parked:
            lines.append(f"{self.parked:,} records are parked, the oldest for {age(self.oldest_parked)}; none is lost")
        lines += [f"{where}: a transaction has been open for {age(seconds)}" for where, seconds in self.open.items()]
        lines += [f"not compared: {count:,} {reason}" for reason, count in sorted(self.not_compared.items())]
        return lines

    def _print_findings(self) -> None:
        for kind, words in KINDS.items():
            found = [finding for finding in self.findings if finding.kind == kind]
            if not found:
                continue
            count = self.counts[kind] + self.accepted[kind]
            echo()
            echo(f"{words}{f' ({len(found):,} of {count:,}; --all names all)' if count > len(found) else ''}:")
            for finding in found:
                echo(f"  {finding}")


def moment(seconds: float) -> datetime:
    """Convert from seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def _time(seconds: float) -> str | None:
    return None if math.isinf(seconds) else f"{moment(seconds):%Y-%m-%d %H:%M:%S}Z"
