"""A worker is killed before and after every call that it makes to Kafka and to Postgres.

For all work and every successor, each event takes effect once, a read_committed reader sees each row of the outbox
once, in the order of its key, and nothing is left behind.
"""

import pytest

from tests.faults.cells import Cell, cells, play
from tests.faults.chosen import chosen

__all__ = ["play"]  # for the fixture


@pytest.mark.parametrize(
    "cell",
    chosen(
        cells(),
        "events-alone-live-after-transaction.commit",
        "events-pair-live-after-kafka.commit",
        "parked-alone-live-after-transaction.commit",
        "parked-pair-live-after-transaction.take",
        "requests-alone-live-after-kafka.produce",
        "requests-pair-live-before-transaction.commit",
        "events-alone-start-after-kafka.renew",
        "events-pair-recovery-of-a-commit-after-kafka.renew",
        "events-alone-live-after-kafka.send_offsets-then-start-before-kafka.begin",
    ),
    ids=str,
)
def test_a_worker_that_is_killed(cell: Cell, problems: list[str]) -> None:
    assert problems == []
