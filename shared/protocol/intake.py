"""The intake: records that were polled but not handled yet, and the history of those that failed.

It decides what the next batch holds. A batch that fails is retried in parts until the failing record is alone. A record
that must wait lets its key wait: the next batch parks it in the database (`parking`), and all later ones of its key, in
its own transaction. It parks its whole input instead if it has no key, if it cannot be read yet, if parking is full,
or if too many keys fail one after the other. A record that can never be handled is rejected: the next batch sets it
aside, in its own transaction. Records of which one ended a process are tried in parts too, which each end narrows.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ..errors import HandlerTooSlow, HandlingFailed, ParkingFull, Reject, Retry, ServiceBroken, Undecided
from .attempts import ENDS, ENDS_BY_CHANCE, Attempt, few
from .ports import Input, Polled, Record

BATCH_BYTES = 50_000_000
"""Maximum bytes of one batch's values; the first record always fits. A compressed record of 3 KB may unpack to 100 MB,
and a transaction that stores several of these outlasts the watchdog.
"""

STRIKES = 2
"""A record is poison after failing alone this often, each time in a fresh transaction."""


KEYS_IN_A_ROW = 3
"""So many keys of an input are parked one after the other, with no record handled between them. One more is a sign that
what they all need is down: the input waits before it is tried, ever longer. So an outage parks a dozen records and not
all of them, and a bad key beside others still lets them go on.
"""


UNDECIDED_STRIKES = 4
"""Failures alone, of unclear cause, after which the record is blamed and not its surroundings."""


@dataclass
class _Trial:
    """The failures of a record that may be its own or its surroundings'."""

    kind: tuple[str, bytes | None]
    failures: int = 0
    """Failures alone; before each but the first, others of its kind were handled."""
    others_handled: bool = False
    """Whether any were since the last failure."""


def _kind(record: Record) -> tuple[str, bytes | None]:
    """Return its topic and its raw type header."""
    return record.input.topic, dict(record.headers or ()).get("ce_type")


class Intake:
    """The records waiting for one worker's handlers: at most a batch, and the rest of a batch per parked input."""

    def __init__(
        self, inputs: Collection[Input], records_max: int, retries_max: int, *, parks_keys: bool = False
    ) -> None:
        self._records_max = records_max
        self._retries_max = retries_max
        self.parks_keys = parks_keys
        """Whether a `Retry` lets its key wait; otherwise its input."""
        self._waiting: dict[Input, deque[Record]] = {source: deque() for source in sorted(inputs)}
        self._ends: dict[Input, int] = {}
        self._passed: dict[Input, int] = {}
        """The offset after the last record that was passed."""
        self._limit = records_max
        self._ceiling = records_max
        """How far the limit may grow: a slow batch lowers it, and each batch that is not raises it a little."""
        self._parked: dict[Input, tuple[Record, Exception]] = {}
        """Inputs that wait after a `Retry`: the record they wait for, and the error."""
        self._attempts: dict[Input, tuple[int, int]] = {}
        """Offset of an input's last `Retry`, and how many in a row there were at it."""
        self._strikes: dict[tuple[Input, int], int] = {}
        self._undecided: dict[tuple[Input, int], _Trial] = {}
        """Records that failed alone; they or their surroundings may be the cause."""
        self._rejected: dict[tuple[Input, int], Exception] = {}
        self._to_park: dict[tuple[Input, int], Exception] = {}
        """Records that the next batch parks, and why."""
        self._in_a_row: dict[Input, int] = {}
        """How many keys were parked since a record of the input was handled."""
        self._alone: set[tuple[Input, int]] = set()
        """Records to try, or set aside, alone: a process ended at them."""
        self._in_parts: dict[Input, Attempt] = {}
        """Records to try in parts: a process ended at one of them."""
        self._suspects: dict[tuple[Input, int], Exception] = {}
        """Records to park before they are tried alone: processes ended while handling only them."""
        self._unwatched = dict.fromkeys(self._waiting, records_max)
        """How many more records of an input a process that was killed earlier may have been handling."""
        self._watched_to: dict[Input, int] = {}
        """The last of them that arrived."""

    def room(self) -> int:
        """How many more records fit. Those of parked inputs do not count, or one input would block all others."""
        waiting = sum(len(records) for source, records in self._waiting.items() if source not in self._parked)
        return self._records_max - waiting

    def idle(self) -> bool:
        """Whether no waiting record could be handled now."""
        return self.room() == self._records_max

    def add(self, polled: Polled) -> None:
        """Take in what a poll returned, except for inputs that are no longer owned."""
        for record in polled.records:
            if record.input in self._waiting:
                self._waiting[record.input].append(record)
                if self._unwatched[record.input]:
                    self._unwatched[record.input] -= 1
                    self._watched_to[record.input] = record.offset
                if suspected := self._suspects.pop((record.input, record.offset), None):
                    self._park(record, suspected)
        # Records after the end did not exist when this began.
        self._unwatched.update(dict.fromkeys(polled.ends, 0))
        self._ends.update({source: end for source, end in polled.ends.items() if source in self._waiting})

    def batch(self) -> list[Record]:
        """Return the next records, input by input; those of a parked input only up to the one it waits for.

        Those of which one ended a process come first, in parts.
        """
        batch: list[Record] = []
        size = 0
        for record in islice(self._part() or self._ready(), self._limit):
            if self._alone and (record.input, record.offset) in self._alone:
                return batch or [record]
            size += len(record.value or b"")
            if batch and size > BATCH_BYTES:
                break
            batch.append(record)
        return batch

    def _ready(self) -> Iterator[Record]:
        return (
            record
            for source, records in self._waiting.items()
            for record in records
            if source not in self._parked or record.offset < self._parked[source][0].offset
        )

    def _part(self) -> list[Record]:
        """Return a part of every input that is tried in parts, or one record if there are few. Nothing else may be in
        the batch: if it ends the process, the notes of these inputs name exactly these records.
        """
        if not self._in_parts:
            return []
        tried = [r for r in self._ready() if r.input in self._in_parts and r.offset <= self._in_parts[r.input].last]
        if few(self._in_parts.values()):
            return tried[:1]
        first: dict[Input, int] = {}
        for record in tried:
            first.setdefault(record.input, record.offset)
        return [record for record in tried if record.offset < first[record.input] + self._in_parts[record.input].part]

    def watched(self, batch: Sequence[Record]) -> bool:
        """Whether a process may have been killed at one of these records before."""
        return any(record.offset <= self._watched_to.get(record.input, -1) for record in batch)

    def suspect(self, source: Input, attempt: Attempt) -> None:
        """Note the records of `source` that a killed process was handling: several, or one."""
        if attempt.offset < attempt.last:
            if source in self._waiting:
                self._in_parts[source] = attempt
            return
        # It is set aside alone too: a later record may end the process before the dead letter is committed.
        self._alone.add((source, attempt.offset))
        if attempt.ends >= ENDS:
            self._rejected[source, attempt.offset] = attempt.error
        elif attempt.ends > ENDS_BY_CHANCE:
            self._suspects[source, attempt.offset] = attempt.error

    def beware(self, source: Input, offset: int, ends: int, error: Exception) -> None:
        """Note that `ends` processes in a row ended at a record, and why: it overrides `suspect`."""
        self._suspects.pop((source, offset), None)
        self._alone.add((source, offset))
        if ends >= STRIKES:
            self._rejected[source, offset] = error

    def pace(self, records: int) -> None:
        """Keep batches from growing much beyond `records`, which took long."""
        self._ceiling = max(1, min(self._ceiling, records))

    def passed(self, batch: Sequence[Record]) -> None:
        """Drop a batch without an effect: `ended` tells how far that goes."""
        for record in batch:
            self._waiting[record.input].popleft()
            self._passed[record.input] = record.offset + 1

    def ended(self, positions: Mapping[Input, int]) -> dict[Input, int]:
        """Return how far inputs whose next offset is below were read without an effect: only records that were passed
        or, at an input's end, control markers lie between.
        """
        ends = {source: end for source, end in self._ends.items() if not self._waiting[source]}
        for source, end in self._passed.items():
            ends[source] = max(end, ends.get(source, 0))
        return {source: end for source, end in ends.items() if end > positions[source]}

    def handled(self, batch: Sequence[Record], inputs: Collection[Input] = ()) -> None:
        """Drop a batch that is committed; handlers saw records of `inputs`."""
        for source in inputs:
            self._in_a_row.pop(source, None)
        if self._undecided:
            kinds = {_kind(record) for record in batch if self.rejected(record) is None}
            for trial in self._undecided.values():
                trial.others_handled |= trial.kind in kinds
        for record in batch:
            self._waiting[record.input].popleft()
            if record.input in self._in_parts and record.offset >= self._in_parts[record.input].last:
                del self._in_parts[record.input]
            self._strikes.pop((record.input, record.offset), None)
            self._rejected.pop((record.input, record.offset), None)
            self._to_park.pop((record.input, record.offset), None)
            self._alone.discard((record.input, record.offset))
            self._undecided.pop((record.input, record.offset), None)
        if batch:
            if len(batch) >= self._ceiling:
                self._ceiling = min(self._records_max, self._ceiling + max(1, self._ceiling // 8))
            self._limit = min(self._ceiling, self._limit * 2)

    def rejected(self, record: Record) -> Exception | None:
        """Why `record` is to be set aside, if it is."""
        return self._rejected.get((record.input, record.offset))

    def to_park(self, record: Record) -> Exception | None:
        """Why `record` is to be parked, if it is."""
        return self._to_park.get((record.input, record.offset))

    def parked(self) -> dict[Input, int]:
        """Inputs parked after a `Retry`, and how often the record they wait for was tried."""
        return {source: self._attempts[source][1] for source in self._parked}

    def waits_for(self, source: Input) -> tuple[Record, Exception]:
        """The record for which `source` is parked, and the error."""
        return self._parked[source]

    def unpark(self, source: Input) -> None:
        """Try the record again for which `source` is parked."""
        self._parked.pop(source, None)

    def failed(self, failure: HandlingFailed, batch: Sequence[Record]) -> tuple[Exception, Record | None]:
        """Decide what the next attempt leaves out; return the cause of the failure, and the record if it is known.

        Raises the cause if leaving out a record cannot help.
        """
        cause = failure.__cause__
        assert isinstance(cause, Exception)
        culprit = failure.record if failure.record is not None else batch[0] if len(batch) == 1 else None
        if not batch:
            raise cause
        if isinstance(cause, HandlerTooSlow) and len(batch) > 1:
            done = batch.index(culprit) if isinstance(culprit, Record) else len(batch)
            self._limit = self._ceiling = max(1, done // 2)
            return cause, None
        if not isinstance(culprit, Record):
            self._limit = max(1, len(batch) // 2)
            return cause, None
        identity = (culprit.input, culprit.offset)
        if isinstance(cause, ParkingFull):
            self._to_park.pop(identity, None)  # when there is room, it may not have to wait any more
            self._park(culprit, cause)
        elif identity in self._rejected:
            raise cause
        elif isinstance(cause, Retry) and self.parks_keys and culprit.key and not failure.unread:
            self._park_key(culprit, cause, batch)
        elif isinstance(cause, Retry | ServiceBroken):
            self._park(culprit, cause)
        elif isinstance(cause, Undecided) and len(batch) == 1:
            self._try_again(culprit, cause)
        elif isinstance(cause, Reject):
            self._rejected[identity] = cause
        elif len(batch) > 1:
            self._limit = max(1, batch.index(culprit))
        else:
            self._strikes[identity] = self._strikes.get(identity, 0) + 1
            if self._strikes[identity] >= STRIKES:
                self._rejected[identity] = cause
        return cause, culprit

    def _try_again(self, record: Record, error: Undecided) -> None:
        """Park `record`, or reject it if others of its type were handled between any two of its failures alone."""
        trial = self._undecided.setdefault((record.input, record.offset), _Trial(_kind(record)))
        trial.failures = trial.failures + 1 if trial.others_handled else max(trial.failures, 1)
        trial.others_handled = False
        if trial.failures >= UNDECIDED_STRIKES:
            self._rejected[record.input, record.offset] = error
        else:
            self._park(record, error)

    def _park_key(self, record: Record, error: Retry, batch: Sequence[Record]) -> None:
        """Let the next batch park `record`, or let its input wait first."""
        row = self._in_a_row.get(record.input, 0)
        waited = self._attempts.get(record.input, (-1, 0))[0] == record.offset
        if row >= KEYS_IN_A_ROW and not waited:
            self._attempts[record.input] = record.offset, row - KEYS_IN_A_ROW + 1
            self._parked[record.input] = record, error
            return
        self._to_park[record.input, record.offset] = error
        self._in_a_row[record.input] = row + 1
        # What comes before it will be handled; behind it there may be more such keys.
        self._limit = batch.index(record) + 1

    def _park(self, record: Record, error: Exception) -> None:
        offset, attempts = self._attempts.get(record.input, (record.offset, 0))
        attempts = attempts + 1 if offset == record.offset else 1
        self._attempts[record.input] = (record.offset, attempts)
        if self._retries_max and attempts > self._retries_max and isinstance(error, Retry):
            self._rejected[record.input, record.offset] = error
        else:
            self._parked[record.input] = record, error
