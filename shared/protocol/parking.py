"""Parked records: each waits in the database with all later ones of its key, while other keys go on.

A record that has to wait is inserted among the parked ones in the transaction that moves the next offset past it, and
its event enters the inbox there as if it were handled. From then on its key is *held*: every later record of it is
parked too. Who owns the input tries the first record of each key again when it is due, and those behind it, under
their first ids; the rows are deleted with the effects. A key is free when its last row is gone.

A dead letter may hold its key too, if a handler is declared so. Its row is then never due, and goes when somebody has
redriven or dismissed it.

This module knows what one worker has to know of it: how much is parked, and which of the records that it tries fail.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import HandlerTooSlow, HandlingFailed, ParkingFull, ProcessEnded, Reject, Retry, Unavailable
from .attempts import ENDS
from .intake import STRIKES
from .ports import Input, NewParked, ParkedRecord, Record, Waiting

NONE = Waiting(0, 0, 0, 0.0, math.inf)

SOON_SECONDS = 0.1
"""What was just parked is due about then."""

Place = tuple[Input, int, int]
"""An input, its epoch, and an offset."""


@dataclass(frozen=True)
class Bounds:
    """How much of one input may be parked. Beyond any of them the input waits."""

    records: int
    bytes: int
    keys: int
    seconds: float
    """The age of the oldest."""


def place(parked: ParkedRecord | NewParked) -> Place:
    """Return where `parked` comes from, which names it."""
    return parked.record.input, parked.epoch, parked.record.offset


def size(record: Record) -> int:
    """Return how many bytes of `record` are kept."""
    headers = sum(len(name) + len(held or b"") for name, held in record.headers or ())
    return len(record.key or b"") + len(record.value or b"") + headers


class Parking:
    """What a worker knows of the parked records of its inputs. Nothing that is committed depends on it."""

    def __init__(self, bounds: Bounds | None, records_max: int, retries_max: int) -> None:
        self._bounds = bounds
        self._records_max = records_max
        self._retries_max = retries_max
        self._limit = records_max
        self._strikes: dict[Place, int] = {}
        self._rejected: dict[Place, Exception] = {}
        self._stuck: dict[tuple[Input, int], Exception] = {}
        self.waiting: dict[Input, Waiting] = {}
        """How much of which input is parked, as it was last counted, and what this worker has parked since."""

    @property
    def limit(self) -> int:
        """How many records the next attempt may take."""
        return self._limit

    def add(self, parked: Iterable[NewParked]) -> dict[Input, Waiting]:
        """Return what waits with `parked`. Raises `HandlingFailed` at the first record for which there is no room."""
        found = dict(self.waiting)
        for one in parked:
            now = found.get(one.record.input, NONE)
            after = Waiting(
                now.records + 1,
                now.bytes + size(one.record),
                now.keys + one.first,
                now.oldest_seconds,
                min(now.due_seconds, SOON_SECONDS),
            )
            if reached := _reached(self._bounds, after):
                raise HandlingFailed(one.record) from ParkingFull(
                    f"{one.record.input} waits, and not only the key: {reached}. `parked list` shows what is parked"
                )
            found[one.record.input] = after
        return found

    def suspect(self, inputs: Iterable[Input]) -> None:
        """Note that somebody else may have parked records of `inputs`: they are counted."""
        for source in inputs:
            self.waiting.setdefault(source, NONE)

    def beware(self, source: Input, offset: int, ends: int, error: Exception) -> None:
        """Note that the watchdog ended `ends` processes in a row at a record, which may be parked."""
        if ends >= STRIKES:
            self._stuck[source, offset] = error

    def rejected(self, parked: ParkedRecord) -> Exception | None:
        """Why `parked` is to be set aside, if it is."""
        if parked.ends > ENDS:
            return ProcessEnded(
                f"{ENDS} times in a row a process was killed, ran out of memory or crashed, or its session of "
                "PostgreSQL ended, while it handled it alone, parked; no effect of it was committed"
            )
        return self._rejected.get(place(parked)) or self._stuck.get(parked.record[:2])

    def done(self, tried: Sequence[ParkedRecord]) -> None:
        """Note that an attempt is committed."""
        for one in tried:
            self._strikes.pop(place(one), None)
            self._rejected.pop(place(one), None)
            self._stuck.pop(one.record[:2], None)
            now = self.waiting.get(one.record.input, NONE)
            self.waiting[one.record.input] = now._replace(
                records=max(0, now.records - 1), bytes=max(0, now.bytes - size(one.record))
            )
        self._limit = min(self._records_max, 2 * max(self._limit, len(tried)))

    def interrupted(self, tried: Sequence[ParkedRecord]) -> tuple[Sequence[ParkedRecord], ParkedRecord | None]:
        """Return, after an attempt that the server failed, which records are due at once, and which one later."""
        self._limit = max(1, len(tried) // 2)
        return (tried, None) if len(tried) > 1 else ((), tried[0])

    def failed(
        self, failure: HandlingFailed, tried: Sequence[ParkedRecord]
    ) -> tuple[Exception, ParkedRecord | None, list[ParkedRecord]]:
        """Decide what the next attempt leaves out: return the cause of the failure, the record that waits for its next
        turn, and those that are due at once.

        Raises the cause if leaving out a record cannot help.
        """
        cause = failure.__cause__
        assert isinstance(cause, Exception)
        culprit = next((one for one in tried if one.record is failure.record), tried[0] if len(tried) == 1 else None)
        if culprit is None or (isinstance(cause, HandlerTooSlow) and len(tried) > 1):
            self._limit = max(1, len(tried) // 2)
            return cause, None, list(tried)
        at = place(culprit)
        if at in self._rejected:
            raise cause
        self._limit = max(1, tried.index(culprit))
        waits: ParkedRecord | None = culprit
        if isinstance(cause, Reject):
            self._rejected[at], waits = cause, None
        elif isinstance(cause, Retry):
            if self._retries_max and culprit.attempts + 1 > self._retries_max:
                self._rejected[at], waits = cause, None
        elif not isinstance(cause, Unavailable):  # it does not pass by itself: the record is tried alone, and at once
            waits = None
            self._strikes[at] = self._strikes.get(at, 0) + (len(tried) == 1)
            if self._strikes[at] >= STRIKES:
                self._rejected[at] = cause
        return cause, waits, [one for one in tried if one is not waits]


def _reached(bounds: Bounds | None, after: Waiting) -> str:
    """Name the bound that `after` exceeds; empty if none."""
    if bounds is None:
        return "PARKED_RECORDS_MAX = 0, and an earlier record of the key waits, or is a dead letter that holds it"
    if after.records > bounds.records:
        return f"PARKED_RECORDS_MAX = {bounds.records} are parked"
    if after.bytes > bounds.bytes:
        return f"PARKED_BYTES_MAX = {bounds.bytes} would be exceeded"
    if after.keys > bounds.keys:
        return f"PARKED_KEYS_MAX = {bounds.keys} are held"
    if after.oldest_seconds > bounds.seconds:
        return f"a record is parked for longer than PARKED_HOURS_MAX = {bounds.seconds / 3_600:g}"
    return ""


def nearest(bounds: Bounds | None, waiting: Mapping[Input, Waiting]) -> float:
    """Return how near the fullest input is to one of its bounds: 0 for nothing, 1 for reached."""
    if bounds is None:
        return 0.0
    return max(
        (
            max(
                w.records / bounds.records,
                w.bytes / bounds.bytes,
                w.keys / bounds.keys,
                w.oldest_seconds / bounds.seconds,
            )
            for w in waiting.values()
        ),
        default=0.0,
    )
