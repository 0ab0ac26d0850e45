"""The records that a killed process was handling, and how often that may happen.

`postgres/attempts.py` stores them.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import ProcessEnded

ENDS = 4
"""Processes in a row that must end at a record, tried alone, before it is set aside."""


ENDS_BY_CHANCE = 1
"""After more ends than this, a process waits before it tries the record again."""

PARTS = 16
"""Parts in which records are tried of which one ended a process. A part costs the round trips of a cycle, some
milliseconds; an end costs the start of a process, about a second. With 16, one record of 4,096 is alone after three
ends. Fewer parts take more ends: two would take twelve. More make each restart of a killed worker longer.
"""


class Attempt(NamedTuple):
    """The records of one input that a killed process was handling."""

    offset: int
    last: int
    """Offset of the last record; equal to `offset` if it was the only one of the input."""
    ends: int
    """Processes in a row that ended while it was tried alone; 0: it was not alone."""
    error: ProcessEnded

    @property
    def span(self) -> int:
        """How many offsets it covers. Compaction and control markers leave gaps: it may be fewer records."""
        return self.last - self.offset + 1

    @property
    def part(self) -> int:
        """How many offsets one of its parts covers: fewer than all if there are several, so each end narrows it."""
        return -(-self.span // PARTS)


def few(attempts: Iterable[Attempt]) -> bool:
    """Whether there are no more records than parts: then each is tried alone."""
    return sum(attempt.span for attempt in attempts) <= PARTS
