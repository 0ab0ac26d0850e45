"""How the processes that tried a record alone really ended, to check the notes of
`shared.postgres.attempts`.
"""

from collections import Counter
from collections.abc import Sequence

from shared.protocol.ports import Input, Record

Place = tuple[Input, int]
"""An input, and an offset."""


class Ends:
    """Processes that began with a record alone and did not finish."""

    def __init__(self) -> None:
        self._now: Counter[Place] = Counter()
        self.most: Counter[Place] = Counter()
        """Their maximum at the moment when one more began."""
        self._at: dict[object, Place] = {}

    def begun(self, process: object, records: Sequence[Record]) -> None:
        """A process is about to handle `records`."""
        if len(records) == 1:
            place = self._at[process] = records[0][:2]
            self.most[place] = max(self.most[place], self._now[place])
            self._now[place] += 1

    def ended(self, process: object) -> None:
        """It is dead, or its session is."""
        self._at.pop(process, None)

    def outlived(self, process: object) -> None:
        """It does something else now."""
        place = self._at.pop(process, None)
        if place is not None:
            self._now[place] -= 1
