"""A rewind of an input explains certain duplicates."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from shared.audit.accepted import Accepted
from shared.postgres.dead_letters import cause_id
from shared.protocol.ports import Input, Record

SOURCE = "order.events-v2"


def accepted(*rows: dict[str, Any]) -> Accepted:
    connection = mock.MagicMock()
    connection.execute.return_value = [
        SimpleNamespace(**{"id": n, "time": 100.0 * n, "command": "positions rewind", "source": f"{SOURCE}[1]", **row})
        for n, row in enumerate(rows, 1)
    ]
    return Accepted(connection)


def identity(offset: int, partition: int = 1, epoch: int = 0) -> str:
    record = Record(Input(SOURCE, partition), offset, None, None, [])
    return cause_id("bill-2", record, epoch, "Billed", 0)


RESTORED = {"before": {"H": 10, "committed": 20, "epoch": 0}, "after": {"H": 10, "committed": 10}}
"""A restored database: Kafka says that the service had handled up to 20."""
BACK = {"before": {"H": 20, "committed": 20}, "after": {"H": 15, "committed": 15}}
"""`--to 15`, as an older release wrote it down."""
BEYOND = {"before": {"H": 20, "committed": 20, "epoch": 0}, "after": {"H": 10, "committed": 10, "epoch": 1}}


@pytest.mark.parametrize(
    ("event_id", "nth", "published_at", "decision"),
    [
        (identity(10), 2, 150.0, 1),
        (identity(19), 2, 150.0, 1),
        (identity(9), 2, 150.0, None),
        (identity(20), 2, 150.0, None),
        (identity(10), 2, 99.0, None),
        (identity(10), 3, 250.0, None),
        (identity(16), 2, 250.0, 1),
        (identity(16), 3, 250.0, 2),
        (identity(16), 4, 250.0, None),
        (identity(10, partition=0), 2, 150.0, None),
        (identity(10, epoch=1), 2, 150.0, None),
        ("bill-2:0199c0de-0000-7000-8000-000000000000", 2, 150.0, None),
        ("", 2, 150.0, None),
    ],
)
def test_what_a_rewind_explains(event_id: str, nth: int, published_at: float, decision: int | None) -> None:
    assert accepted(RESTORED, BACK).again(event_id, nth, published_at) == decision


def test_what_was_parked_in_a_restored_database_may_be_published_again_once() -> None:
    """It is below the next offset, so no rewind goes over it."""
    made = accepted({**RESTORED, "command": "positions adopt", "before": {**RESTORED["before"], "parked": [[0, 7]]}})
    assert made.rewound
    assert [made.again(identity(7), nth, 150.0) for nth in (2, 3)] == [1, None]
    assert made.again(identity(7), 2, 99.0) is None, "published before the decision"
    assert made.again(identity(8), 2, 150.0) is None


def test_a_new_epoch_repeats_nothing() -> None:
    made = accepted(BEYOND)
    assert not made.rewound
    assert made.again(identity(12, epoch=1), 2, 150.0) is None


def test_a_lane_that_is_decided_explains_what_waited_in_it_once() -> None:
    waited = {
        "source": "lane-1",
        "before": {"position": 1},
        "after": {"position": 2, "may be said twice": [["a", "key-a"], [identity(12), "key-12"]]},
    }
    made = accepted(waited, RESTORED)
    assert made.rewound
    assert (made.key("a"), made.key("b")) == ("key-a", None)
    assert [made.again("a", nth, 0.0) for nth in (2, 3)] == [1, None]
    assert made.again("b", 2, 900.0) is None
    assert [made.again(identity(12), nth, 250.0) for nth in (2, 3, 4)] == [1, 2, None]
