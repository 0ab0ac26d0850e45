"""Counts round trips to PostgreSQL, from libpq's own trace of the messages of a connection."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from psycopg import pq


class RoundTrips:
    """How often a connection sent something and then waited for an answer."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        """Direction and kind of each message, such as "F Parse" and "B ReadyForQuery"."""

    @property
    def number(self) -> int:
        ways = [message[0] for message in self.messages]
        return sum(before + after == "FB" for before, after in pairwise(ways))


@contextmanager
def counted(raw: Any) -> Iterator[RoundTrips]:
    """Count those of a psycopg connection; they are known when the block has ended."""
    found = RoundTrips()
    with tempfile.TemporaryFile("w+") as file:
        raw.pgconn.trace(file.fileno())
        raw.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield found
        finally:
            raw.pgconn.untrace()
            file.seek(0)
            lines = (line.split("\t") for line in file if line[:2] in {"F\t", "B\t"})
            found.messages = [f"{parts[0]} {parts[2].strip()}" for parts in lines]
