"""`audit`: compares what the database decided to publish with what the topics contain, while everything runs.

It changes nothing, joins no group, and holds no snapshot for long, so both sides move while they are read. Its findings
are still true, because of the order of its reads:

1. The lanes: their current claims, and the last row of `exactly_once_claimed` in each. A row of an earlier claim is
   published: the next claim is made once the published position proves the last one
   (`shared.postgres.claim_log`).
2. The published position, after 1: is the current claim published too? From here on an event is either *sure*,
   published before this moment, or not.
3. The high watermarks, after 2. The records of a transaction are in the log before it is committed, and the published
   position becomes visible with the commit, so every sure event is below these ends. Its marker may still be on its
   way, so the topics are read until no transaction below the ends is open.
4. The rows of `exactly_once_claimed`, after 3, page by page. A record is produced after its claim is committed, so each
   record below the ends has its claim here. Later claims are here too, and are not sure: the topics need not have
   them.
5. The topics, from their beginning to the ends.
6. How far back the topics reach, after 5: retention runs meanwhile, as pruning does during 4. Records it removes before
   they are read leave a gap at the beginning, and only what is younger than the gap is compared.

A claim that changes during all this (a smaller one, a row set aside, lanes resized, a decision) is a current one that
is not published, so it is not sure. Between 1 and 4 rows are only appended, or deleted for their age.

What cannot be known is counted, not compared: records older than the first claim that is known without a gap; claims
from a time from which a topic has removed records; records behind a transaction that does not end.
"""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from sqlalchemy import Connection, text

from ..errors import CommandFailed, Misconfigured
from ..kafka.topics import needed
from ..operations import survey
from ..operations.group import Group
from ..operations.maintenance import Context
from ..operations.output import age
from ..postgres import parked
from ..protocol.ports import Input
from . import claims
from . import topics as audit_topics
from .accepted import Accepted
from .claims import Known
from .ledger import INDEX_BITS, Again, Ledger
from .report import EVERYTHING, EXAMPLES, Finding, Report, moment
from .topics import Consumption

UNPUBLISHED_SECONDS = 60.0
"""Longer than any default timeout after which another worker takes over a lane."""

_NOW = text("SELECT clock_timestamp()")
_READY = text("SELECT to_regclass('exactly_once_claimed') IS NOT NULL")
_CLUSTER = text("SELECT cluster_id FROM exactly_once_cluster")
_SCHEDULED = text("SELECT count(*) FROM exactly_once_schedule WHERE due > statement_timestamp()")
_TOPICS = text("SELECT name, topic_id FROM exactly_once_topic")
_ADOPTED = text("""
    SELECT source, CAST(extract(epoch FROM max(decided_at)) AS float8) FROM exactly_once_decision
    WHERE command = 'positions adopt' AND source = ANY(:topics) GROUP BY source
""")

NOT_PUBLISHED_HERE = "events claimed for a topic that this service does not publish on, or that does not exist"
RECREATED = "events claimed before their topic was created again"
REMOVED = "events claimed at a time from which their topic has removed records"
BEHIND = "events claimed for a topic that an open transaction holds back"
BEFORE = "records older than the first known claim"


class Bounds(NamedTuple):
    """What an audit may cost. One that would cost more is refused, or given up."""

    seconds: float = math.inf
    records: float = math.inf
    """Of the topics, and as many events that were claimed."""


UNBOUNDED = Bounds()


def audit(context: Context, *, json: bool, everything: bool = False) -> bool:
    """Compare, and print `everything` or the first findings of each kind; True if decisions have accepted all that is
    wrong. Raises `Misconfigured`, `KafkaUnavailable`, `CommandFailed`.
    """
    report = compare(context, most=EVERYTHING if everything else EXAMPLES)
    if json:
        report.as_json()
    else:
        report.print()
    return report.clean


def compare(context: Context, *, most: int = EXAMPLES, bounds: Bounds = UNBOUNDED) -> Report:
    """Compare, and name up to `most` findings of each kind. Raises as `audit` does."""
    with (
        Group(context.settings, context.service) as group,
        context.engine.connect() as connection,
        closing(Ledger()) as ledger,
        _progress(disable=bounds is not UNBOUNDED) as progress,
    ):
        try:
            return _Audit(context, group, connection, ledger, progress, bounds=bounds).run(most)
        except sqlite3.Error as error:
            raise CommandFailed(f"the temporary database (in TMPDIR): {error}") from error


@contextmanager
def _progress(*, disable: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, transient=True, disable=disable or not console.is_terminal) as progress:
        yield progress


class _Audit:
    """One audit."""

    def __init__(
        self,
        context: Context,
        group: Group,
        connection: Connection,
        ledger: Ledger,
        progress: Progress,
        *,
        bounds: Bounds,
    ) -> None:
        self._limits = bounds
        self._began = time.monotonic()
        self._events = 0
        self._context = context
        self._service = context.service
        self._group = group
        self._connection = connection
        self._ledger = ledger
        self._progress = progress
        self._topics = sorted({*context.service.published_topics, context.service.dead_letter_topic})
        with connection.begin():
            if not connection.execute(_READY).scalar_one():
                raise Misconfigured(f"the database has no log of claims: run {context.command('migrate')} first")
            now: datetime = connection.execute(_NOW).scalar_one()
        self._report = Report(context.service.name, now)
        self._recreated: set[str] = set()
        self._batch: int | None = None
        """The last claim whose ids were read."""
        self._ids: list[str] = []

    def run(self, most: int) -> Report:
        self._report.most = most
        self._refuse_other_cluster()
        self._compare_topics()
        doubtful = self._positions()
        lanes = claims.look(self._connection)  # 1
        published = self._group.committed((), [lane.number for lane in lanes if lane.position is not None])  # 2
        proved = {n: n.proved(published.get(n.number)) and n.number not in doubtful for n in lanes}
        spans = self._group.spans(self._partitions(self._topics))  # 3
        self._refuse_more("records in its topics", sum(span.high - span.low for span in spans.values()))
        task = self._progress.add_task("claims", total=None)
        self._accepted = Accepted(self._connection)  # before 4: a later decision explains nothing yet
        known = claims.read(  # 4
            self._connection, proved, self._accepted, self._ledger, lambda events: self._claimed(task, events)
        )
        self._progress.update(task, description="records", total=sum(s.high - s.low for s in spans.values()))
        consumed = audit_topics.consume(  # 5
            self._context,
            self._group,
            spans,
            lanes=max(sum(lane.position is not None for lane in lanes), 1),
            ledger=self._ledger,
            tick=lambda passed: self._consumed(task, passed),
        )
        self._progress.update(task, description="comparing", total=None)
        self._ledger.settle()
        self._compare(known, consumed)
        self._open_transactions()
        self._name()
        self._report.records, self._report.ours = consumed.records, consumed.ours
        self._report.claims, self._report.events, self._report.known_since = known.claims, known.events, known.first
        self._report.seconds = time.monotonic() - self._began
        return self._report

    def _claimed(self, task: TaskID, events: int) -> None:
        self._events += events
        self._refuse_more("events in its claims", self._events)
        self._progress.advance(task)
        self._refuse_longer()

    def _consumed(self, task: TaskID, passed: int) -> None:
        self._progress.update(task, completed=passed)
        self._refuse_longer()

    def _refuse_more(self, what: str, count: int) -> None:
        if count > self._limits.records:
            raise CommandFailed(
                f"{self._service.name} has {count:,} {what}, and more than {self._limits.records:,} are not compared "
                f"here: run {self._context.command('audit')}, which has no such limit"
            )

    def _refuse_longer(self) -> None:
        if time.monotonic() - self._began > self._limits.seconds:
            raise CommandFailed(
                f"it was not done after {self._limits.seconds:.0f} s: run {self._context.command('audit')}, which has "
                "no such limit"
            )

    def _partitions(self, topics: list[str]) -> list[Input]:
        found = self._group.topics(topics)
        return [Input(name, n) for name, topic in found.items() for n in range(topic.partitions)]

    def _refuse_other_cluster(self) -> None:
        with self._connection.begin():
            known = self._connection.execute(_CLUSTER).scalar_one_or_none()
        present = self._group.cluster_id()
        if known not in (None, present):
            raise Misconfigured(
                f"the positions belong to Kafka cluster {known}, and KAFKA_BOOTSTRAP_SERVERS leads to {present}: there "
                "is nothing to compare"
            )

    def _compare_topics(self) -> None:
        with self._connection.begin():
            known: dict[str, str] = dict(self._connection.execute(_TOPICS).all())
        for name, topic in sorted(self._group.topics(needed(self._service)).items()):
            if known.get(name, topic.id) != topic.id:
                self._recreated.add(name)
                decide = self._context.command(f"positions adopt --target {name}")
                detail = f"the topic was deleted and created again; decide with {decide}"
                self._report.add(Finding("positions", detail, where=name))

    def _positions(self) -> set[int]:
        """Compare positions and the backlog; return the lanes that disagree."""
        name, report = self._service.name, self._report
        for source in survey.inputs(self._connection, self._group, self._service):
            stop = source.disagreement(name)
            if stop is not None:
                report.add(Finding("positions", str(stop), where=str(source.source)))
            elif source.span is None:
                report.add(Finding("positions", source.words(), where=str(source.source)))
            report.lag += max(source.lag or 0, 0)
        report.parked, report.oldest_parked = self._parked()
        doubtful = set()
        states = survey.lanes(self._connection, self._group, self._service)
        for state in states:
            stop = state.disagreement(name)
            if stop is not None:
                doubtful.add(state.lane)
                position = state.claim.position if state.claim else None
                report.add(Finding("positions", str(stop), lane=state.lane, position=position))
        with self._connection.begin():
            report.scheduled = self._connection.execute(_SCHEDULED).scalar_one()
        for lane, waits in sorted(survey.waiting(self._connection, states).items()):
            report.unpublished += waits.rows
            if waits.rows and waits.oldest_seconds is not None:
                report.oldest_unpublished = max(report.oldest_unpublished or 0.0, waits.oldest_seconds)
                if waits.oldest_seconds > max(UNPUBLISHED_SECONDS, audit_topics.longest(self._context)):
                    detail = f"{waits.rows:,} wait, the oldest for {age(waits.oldest_seconds)}"
                    report.add(Finding("unpublished", detail, lane=lane))
        return doubtful

    def _parked(self) -> tuple[int, float | None]:
        topics = self._partitions(sorted(self._service.consumed_topics))
        with self._connection.begin():
            found = (parked.waiting(self._connection, topics) or {}).values()
        return sum(one.records for one in found), max((one.oldest_seconds for one in found), default=None)

    def _compare(self, known: Known, consumed: Consumption) -> None:
        report, ledger = self._report, self._ledger

        def where(part: int, offset: int) -> str:
            return f"{consumed.parts[part]}@{offset}"

        for again in ledger.twice():
            detail = f"it is also at {where(again.first_part, again.first_offset)}"
            found = Finding("twice", detail, where(again.part, again.offset), again.event_id, place=again.place)
            self._explain(found, again)
            report.add(found)
        bounds = self._bounds(consumed)
        for missing in ledger.never():
            if not missing.sure:
                continue
            batch = ledger.batch(missing.place)
            since = bounds.get(batch.topic, {NOT_PUBLISHED_HERE: math.inf})
            reasons = [reason for reason, bound in since.items() if missing.claimed_at <= bound]
            if reasons:
                report.not_compared[reasons[0]] += 1
            else:
                detail = f"claimed at {moment(missing.claimed_at):%Y-%m-%d %H:%M:%S}Z"
                by = self._accepted.never(batch.lane, batch.position, batch.claimed_at)
                report.add(Finding("never", detail, where=batch.topic, place=missing.place, accepted_by=by))
        for stranger in ledger.strange():
            decided = _decided(stranger.time)
            if decided < known.since_when(stranger.lane):
                report.not_compared[BEFORE] += 1
            else:
                detail = f"decided at {stranger.time}" if stranger.time else "it has no time"
                found = Finding("unknown", detail, where(stranger.part, stranger.offset), stranger.event_id or None)
                found.key, found.event_type = stranger.key or None, stranger.type or None
                found.accepted_by = self._accepted.unknown(stranger.lane, decided)
                report.add(found)
        for late in ledger.disorder():
            later = ledger.batch(late.later)
            detail = f"it comes after an event of lane-{later.lane}, position {later.position}, that was decided later"
            report.add(Finding("order", detail, where(late.part, late.offset), place=late.place))

    def _explain(self, found: Finding, again: Again) -> None:
        """Name the rewind that explains a duplicate."""
        if not self._accepted.rewound:
            return
        if again.place is None:
            event_id, published = again.event_id or "", _decided(again.time or "")
        else:
            batch = self._ledger.batch(again.place)
            if self._batch != batch.id:  # duplicates mostly come one after the other
                self._batch, self._ids = batch.id, claims.event_ids(self._connection, batch.lane, batch.id)
            index = again.place & ((1 << INDEX_BITS) - 1)
            event_id, published = self._ids[index] if index < len(self._ids) else "", batch.claimed_at
        found.accepted_by, found.key = (
            self._accepted.again(event_id, again.nth, published),
            self._accepted.key(event_id),
        )

    def _bounds(self, consumed: Consumption) -> dict[str, dict[str, float]]:
        """For each topic, up to when its claims cannot be compared, and why."""
        bounds: dict[str, dict[str, float]] = {source.topic: {} for source in consumed.parts}
        kept = audit_topics.kept_since(self._context, self._group, consumed.parts)  # 6
        for topic, since in kept.items():
            bounds[topic][REMOVED] = since
        for source in consumed.unread:
            bounds[source.topic][BEHIND] = math.inf
        with self._connection.begin():
            adopted: dict[str, float] = dict(self._connection.execute(_ADOPTED, {"topics": list(bounds)}).all())
        for name, since in (adopted | dict.fromkeys(self._recreated, math.inf)).items():
            if name in bounds:
                bounds[name][RECREATED] = since
        return bounds

    def _open_transactions(self) -> None:
        # A service may consume what it publishes, and a topic is asked about once.
        sources = self._partitions(sorted({*self._topics, *self._service.consumed_topics}))
        ages = audit_topics.standing(self._context, self._group, sources)
        for source, seconds in sorted(ages.items()):
            self._report.open[str(source)] = seconds
            if seconds > audit_topics.longest(self._context):
                detail = f"open for {age(seconds)}: no read_committed consumer can pass it"
                self._report.add(Finding("open", detail, where=str(source)))

    def _name(self) -> None:
        """Add to the findings the names of their events."""
        for finding in self._report.findings:
            if finding.place is not None:
                batch = self._ledger.batch(finding.place)
                index = finding.place & ((1 << INDEX_BITS) - 1)
                finding.event_id = claims.event_id(self._connection, batch.lane, batch.id, index)
                finding.lane, finding.position = batch.lane, batch.position


def _decided(written: str) -> float:
    """Return the time in a record's header; a record without one counts as later than everything."""
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return math.inf
    return math.inf if found.tzinfo is None else found.timestamp()
