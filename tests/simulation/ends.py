"""How processes that tried a record alone really ended, to check the notes of `shared.postgres.attempts`."""

from collections import Counter
from collections.abc import Sequence

from shared.protocol.ports import Input, Record

Place = tuple[Input, int]
"""An input, and an offset."""


class Ends:
    """Processes that began with a single record and did not finish."""

    def __init__(self) -> None:
        self._now: Counter[Place] = Counter()
        self.most: Counter[Place] = Counter()
        """Their maximum when one more began."""
        self._at: dict[object, Place] = {}

    def begun(self, process: object, records: Sequence[Record]) -> None:
        """Note that a process is about to handle `records`."""
        if len(records) == 1:
            place = self._at[process] = records[0][:2]
            self.most[place] = max(self.most[place], self._now[place])
            self._now[place] += 1

    def ended(self, process: object) -> None:
        """Note that a process or its session died."""
        self._at.pop(process, None)

    def outlived(self, process: object) -> None:
        """Note that a process went on to other work."""
        place = self._at.pop(process, None)
        if place is not None:
            self._now[place] -= 1
