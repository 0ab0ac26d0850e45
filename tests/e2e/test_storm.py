"""The whole system loses and doubles nothing while its real servers and processes are killed and frozen."""

import pytest

from dev.demo.chaos import Blow
from dev.system import Shape
from tests.e2e.storm import Window, run, sabotaged


@pytest.mark.proof
@pytest.mark.timeout(1_500)  # three minutes of orders, and the drain after them, on a machine that may be busy
def test_ten_thousand_orders_survive_a_hundred_kills_and_ten_freezes() -> None:
    result = run(seed=2026, orders=10_000, parts=[Window(70, 45, 4)] * 3)

    assert result.failing() == set()
    assert result.load.problems == []
    assert result.load.counts["accepted"] >= 10_000
    assert result.hits("kill") >= 100
    assert result.hits("freeze") >= 10


@pytest.mark.timeout(600)
def test_killed_servers_come_back_and_the_system_goes_on_by_itself() -> None:
    result = run(
        seed=7,
        orders=1_200,
        parts=[Window(50, 4)],
        servers_struck=(
            Blow(10.0, "kill postgres", "", 2.0),
            Blow(22.0, "kill kafka", "", 3.0),
            Blow(38.0, "kill postgres", "", 0.5),
        ),
    )

    assert result.failing() == set()
    assert result.load.problems == []
    assert result.hits("kill kafka") == 1
    assert result.hits("kill postgres") == 2


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sabotage", "must_fail"),
    [
        ("commit_p_outside", "events published twice, as one and the same"),
        pytest.param("delete_claimed_rows_early", "events that are missing", marks=pytest.mark.proof),
    ],
)
def test_the_sheet_sees_a_broken_guarantee(sabotage: str, must_fail: str) -> None:
    shape = Shape(settings=sabotaged(sabotage), worker="tests.e2e.sabotaged {service}")

    result = run(seed=3, orders=400, parts=[Window(20, 14)], shape=shape, drain_seconds=30.0)

    assert must_fail in result.failing()
