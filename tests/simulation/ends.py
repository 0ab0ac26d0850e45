"""What really became of the processes that tried a record alone: by this the notes of `shared.postgres.attempts`
are checked.
"""

from collections import Counter
from collections.abc import Sequence

from shared.protocol.ports import Input, Record

Place = tuple[Input, int]
"""An input, and an offset."""


class Ends:
    """How many processes have begun with a record alone and come to no end."""

    def __init__(self) -> None:
        self._now: Counter[Place] = Counter()
        self.most: Counter[Place] = Counter()
        """So many there were, at the worst moment, when one more began."""
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
