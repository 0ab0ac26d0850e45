"""A worker reports its state truthfully in every state."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from shared.protocol.ports import Assignment, Input, Waiting
from shared.telemetry.metrics import STATES
from shared.worker.health import Health

SILENT = "Kafka has not answered for 11 s"


class Seeing:
    """An observer that sees what a test sets."""

    silent = ""

    def silence(self) -> str:
        """Return the server that does not answer."""
        return self.silent

    def held_back(self) -> str:
        """Return no reason."""
        return ""

    def own(self, _inputs: object, _lanes: object) -> None:
        """Do nothing."""


@pytest.fixture
def seeing() -> Seeing:
    return Seeing()


WHILE_IT_WORKS = (
    "exactly_once_lanes_owned",
    "exactly_once_partitions_parked",
    "exactly_once_parked_filled_ratio",
)


@pytest.fixture
def health(seeing: Seeing) -> Health:
    return Health(cast("Any", seeing), debugging=False)


def work(health: Health, parked: int = 0, keys: int = 0, filled: float = 0.0, paused: Collection[str] = ()) -> None:
    """Let a cycle end with some input parked, or some keys, or topics paused."""
    owned = Assignment(frozenset({Input("a", 0)}), frozenset({0, 1}))
    waiting = {Input("a", 0): Waiting(2 * keys, 100, keys, 1.0, 1.0)} if keys else {}
    cycle: Any = SimpleNamespace(
        owned=owned,
        parked=lambda: {Input("a", n): 1 for n in range(parked)},
        waiting=waiting,
        parking_filled=filled,
        paused=paused,
    )
    health.working(cycle, assigned=True, share_seconds=10)


def shown() -> tuple[list[str], dict[str, float | None]]:
    """Return the state that the gauges show, and what is owned."""
    at = [state for state in STATES if REGISTRY.get_sample_value("exactly_once_worker_state", {"state": state}) == 1]
    return at, {name: REGISTRY.get_sample_value(name) for name in WHILE_IT_WORKS}


@pytest.mark.parametrize("state", sorted({*STATES} - {"working"}))
def test_what_a_worker_owns_is_shown_while_it_works_and_only_then(health: Health, state: str) -> None:
    work(health, parked=1, filled=0.25)
    assert shown() == (["working"], dict(zip(WHILE_IT_WORKS, (2.0, 1.0, 0.25), strict=True)))
    health.enter(state)
    assert shown() == ([state], dict.fromkeys(WHILE_IT_WORKS)), "what is not known is not 0"


def test_a_worker_whose_main_loop_waits_is_not_ready_when_a_server_is_silent(health: Health, seeing: Seeing) -> None:
    work(health)
    assert health.told() == (True, "working: 1 inputs, 2 lanes")
    seeing.silent = SILENT  # and the main loop reports nothing
    assert health.told() == (False, SILENT)


def test_keys_that_wait_are_normal_until_a_partition_is_about_to_wait(health: Health) -> None:
    work(health, keys=3, filled=0.5)
    assert health.told() == (True, "working: 1 inputs, 2 lanes; 3 keys parked")
    work(health, keys=3, filled=0.8)
    assert health.told() == (
        False,
        "working: 1 inputs, 2 lanes; 3 keys parked; a partition is about to wait: `parked list`",
    )


def test_what_an_operator_has_paused_is_no_fault(health: Health) -> None:
    work(health, paused={"b", "a"})
    assert health.told() == (True, "working: 1 inputs, 2 lanes; paused by an operator: a, b")


def test_an_idle_worker_waits_while_a_server_is_silent(health: Health, seeing: Seeing) -> None:
    seeing.silent = SILENT
    work(health)
    assert health.told() == (False, f"waiting: {SILENT}")
    assert shown()[0] == ["waiting"]
    health.standing_by()
    assert health.told() == (False, f"waiting: {SILENT}")
    seeing.silent = ""
    health.standing_by()
    assert health.told() == (True, "standby: all slots are taken")
