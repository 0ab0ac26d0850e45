"""A caller is killed before and after each of its steps, also between the bank's booking and the commit.

Whoever goes on asks again with the same idempotency key: the bank books each bill once, and each answer takes effect
once and is published once.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import Postgres
from shared.testing import until
from tests.faults.chosen import chosen
from tests.integration.calls.paying import STEPS, Stage

BILLS = ("b-1", "b-2", "b-3")


@pytest.fixture
def paying(postgres: Postgres, tmp_path: Path) -> Iterator[Stage]:
    """A service that pays bills, and its bank."""
    with Stage(postgres, tmp_path) as stage:
        yield stage


def cells() -> list[str]:
    """All cells: where it dies, and who goes on."""
    return [
        f"{company}-{when}-{step}" for company in ("alone", "pair") for step in STEPS for when in ("before", "after")
    ]


@pytest.mark.parametrize("cell", chosen(cells(), "alone-after-ask", "pair-after-ask", "alone-after-finish"))
def test_a_caller_that_is_killed(cell: str, paying: Stage) -> None:
    company, when, step = cell.split("-")
    if company == "alone":
        paying.due(*BILLS, parts=(1, 2))
    dying = paying.caller(step, after=when == "after")
    if company == "pair":
        paying.caller()
        until(lambda: "caller_started" in paying.log(1), "the second caller works")
        fed = 0
        while dying.exitcode is None and fed < 100:  # until the first one gets something to do
            paying.due(f"more-{fed}", parts=(1, 2))
            fed += 1
            dying.join(0.2)
        paying.due(*BILLS, parts=(1, 2))
    dying.join(60)
    assert dying.exitcode == -9, f"it ended with {dying.exitcode} and did not come to {cell}"
    if company == "alone":
        paying.caller()
    paying.until_finished()

    bills = [bill for (bill,) in paying.rows("SELECT id FROM bill")]
    expected = sorted((bill, part) for bill in bills for part in (1, 2))
    assert sorted((event["bill"], event["part"]) for event in paying.events()) == expected
    assert {event["type"] for event in paying.events()} == {"Paid"}
    assert paying.rows("SELECT DISTINCT state, changes FROM bill") == [("PAID", 2)]
    assert len(paying.bank.booked) == len(expected)
    assert {event["receipt"] for event in paying.events()} == set(paying.bank.booked.values())
    for bill in bills:
        assert [event["part"] for event in paying.events() if event["bill"] == bill] == [1, 2]
