"""The last words of a process that the watchdog ends: what it was handling, and whom the next process is to suspect."""

from typing import Any

import pytest

from shared.postgres.handlers import At
from shared.protocol.ports import Input, Record
from shared.worker.last_words import last_words


class Database:
    """Notes records as the real one does."""

    def __init__(self, *offsets: int) -> None:
        self.at = At([Record(Input("events", 0), offset, b"key", b"{}", None) for offset in offsets], "sell")
        self.noted: list[int] = []

    def note_stuck(self, record: Record, _detail: str, _where: str) -> None:
        self.noted.append(record.offset)


@pytest.mark.parametrize(
    ("offsets", "noted", "told"),
    [((7,), [7], {"handler": "sell", "offset": 7}), ((7, 8), [], {"handler": "sell", "records": 2})],
)
def test_a_record_is_noted_only_if_it_is_alone(offsets: Any, noted: list[int], told: dict[str, object]) -> None:
    """Of several in a batch handler nobody knows which: the next processes try them one by one."""
    database: Any = Database(*offsets)
    words = last_words(database, 30, "cycle")
    assert told.items() <= words.items()
    assert database.noted == noted
