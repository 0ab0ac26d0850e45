"""A table that is not complete is refused at import; a complete one decides every pair."""

from dataclasses import dataclass

import pytest
from prometheus_client import REGISTRY

from shared.errors import Reject
from shared.states import NONE, Cell, Machine, ignore, refuse, to


@dataclass
class Door:
    state: str


CELLS = {NONE: refuse("there is no door"), "OPEN": to("SHUT"), "SHUT": ignore("it is shut")}


def machine(cells: dict[str, Cell] = CELLS, name: str = "door") -> Machine:
    return Machine(name, ("OPEN", "SHUT"), {"Close": cells})


@pytest.mark.parametrize("state", CELLS)
def test_a_missing_cell_is_refused(state: str) -> None:
    with pytest.raises(ValueError, match="the table of door does not say what Close means in"):
        machine({name: cell for name, cell in CELLS.items() if name != state})


@pytest.mark.parametrize("wrong", [{**CELLS, "AJAR": to("SHUT")}, {**CELLS, "OPEN": to("AJAR")}])
def test_a_state_that_does_not_exist_is_refused(wrong: dict[str, Cell]) -> None:
    with pytest.raises(ValueError, match="and no such state"):
        machine(wrong)


def test_an_event_that_means_something_moves() -> None:
    door = Door("OPEN")
    assert not machine().ignores(door, "Close")
    machine().move(door, "Close", "SHUT")
    assert door.state == "SHUT"


def test_an_event_that_means_nothing_is_counted() -> None:
    labels = {"machine": "counted door", "state": "SHUT", "event": "Close"}
    assert machine(name="counted door").ignores(Door("SHUT"), "Close")
    assert REGISTRY.get_sample_value("exactly_once_events_ignored_total", labels) == 1


def test_an_event_that_cannot_be_is_rejected_with_the_reason() -> None:
    with pytest.raises(Reject, match="there is no door"):
        machine().ignores(None, "Close")


def test_a_handler_cannot_move_where_the_table_does_not_lead() -> None:
    with pytest.raises(ValueError, match="does not lead from OPEN by Close to OPEN"):
        machine().move(Door("OPEN"), "Close", "OPEN")
