"""What a process had in its hands when it was killed, and how often that may happen.

`postgres/attempts.py` stores it.
"""

from typing import NamedTuple

from ..errors import ProcessEnded

ENDS = 4
"""So many processes in a row ended at a record, alone, before it is set aside."""


ENDS_BY_CHANCE = 1
"""After more than so many a process waits before it tries the record again."""


class Attempt(NamedTuple):
    """What a process that came to no end had in its hands of one input."""

    offset: int
    last: int
    """Offset of the last record; the same if it was tried alone."""
    ends: int
    """How many processes in a row ended at it alone; 0: it was not alone."""
    error: ProcessEnded
