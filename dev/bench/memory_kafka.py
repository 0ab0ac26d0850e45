"""A Kafka that costs nothing: records come from a list, and what is published is dropped.

The production cycle runs on it, so that what is left is its work on PostgreSQL: the same statements in the same
transactions, rows claimed and deleted.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from shared.protocol.ports import Assignment, Committed, Input, OutboxRow, Polled, Record


class MemoryKafka:
    """Implements `shared.protocol.ports.Kafka` for one worker that owns everything."""

    def __init__(self, records: Sequence[Record], share: Assignment) -> None:
        self._waiting = iter(records)
        self._share: Assignment | None = share
        self._reading = False
        self._committed: dict[Input | int, Committed] = {}

    def poll(self, records: int, seconds: float) -> Polled:  # noqa: ARG002 - nothing is waited for
        assigned, self._share = self._share, None
        found = list(islice(self._waiting, records)) if self._reading else []
        return Polled(found, {}, assigned, group_metadata="a member")

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
        return {key: self._committed[key] for key in (*inputs, *lanes) if key in self._committed}

    def beginning(self, source: Input) -> int:  # noqa: ARG002
        return 0

    def read_from(self, positions: Mapping[Input, int], lanes: Collection[int]) -> None:  # noqa: ARG002
        self._reading = bool(positions)

    def pause(self, inputs: Collection[Input]) -> None:
        """Nothing is fetched."""

    def resume(self, inputs: Collection[Input]) -> None:
        """Nothing is fetched."""

    def renew(self) -> None:
        """There is no producer."""

    def begin(self) -> None:
        """There is no transaction."""

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        """Drop them."""

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:  # noqa: ARG002
        for lane, published in lanes.items():
            self._committed[lane] = published

    def commit(self) -> None:
        """Nothing is left to do."""

    def confirm(self) -> None:
        """No connection was lost."""
