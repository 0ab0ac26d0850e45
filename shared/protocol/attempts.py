"""The records that a killed process was handling, and how often that may happen.

`postgres/attempts.py` stores them.
"""

from typing import NamedTuple

from ..errors import ProcessEnded

ENDS = 4
"""Processes in a row that must end at a record, tried alone, before it is set aside."""


ENDS_BY_CHANCE = 1
"""After more ends than this, a process waits before it tries the record again."""


class Attempt(NamedTuple):
    """The records of one input that a killed process was handling."""

    offset: int
    last: int
    """Offset of the last record; equal to `offset` if it was tried alone."""
    ends: int
    """Processes in a row that ended while it was tried alone; 0: it was not alone."""
    error: ProcessEnded
