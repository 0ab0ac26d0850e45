"""An incomplete table is refused at import; a complete one decides every pair."""

from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.errors import Reject
from shared.events import Event
from shared.states import NONE, Cell, Command, Machine, ignore, refuse, to


@dataclass
class FrontDoor:
    state: str


class Slammed(Event, topic="doors"):
    pass


CLOSE = Command("close (HTTP)")
CELLS = {NONE: refuse("there is no door"), "OPEN": to("SHUT"), "SHUT": ignore("it is shut")}
FORCED = {NONE: refuse("there is no door"), "OPEN": to("SHUT", "OPEN"), "SHUT": to("OPEN")}


def machine(cells: dict[str, Cell] = CELLS, name: str = "") -> Machine[FrontDoor]:
    return Machine(FrontDoor, ("OPEN", "SHUT"), {CLOSE: cells, Slammed: FORCED}, name=name)


def test_a_machine_is_named_after_its_rows() -> None:
    assert machine().name == "front door"


@pytest.mark.parametrize("state", CELLS)
def test_a_missing_cell_is_refused(state: str) -> None:
    with pytest.raises(ValueError, match=r"table of front door does not decide what close \(HTTP\) means in"):
        machine({name: cell for name, cell in CELLS.items() if name != state})


@pytest.mark.parametrize("wrong", [{**CELLS, "AJAR": to("SHUT")}, {**CELLS, "OPEN": to("AJAR")}])
def test_a_state_that_does_not_exist_is_refused(wrong: dict[str, Cell]) -> None:
    with pytest.raises(ValueError, match="and no such state"):
        machine(wrong)


def test_events_share_cells() -> None:
    found = Machine(
        FrontDoor,
        ("OPEN", "SHUT"),
        {
            (CLOSE, Slammed): {NONE: refuse("there is no door")},
            CLOSE: _without_none(CELLS),
            Slammed: _without_none(FORCED),
        },
    )
    assert found.table == machine().table


def test_a_cell_that_is_shared_and_given_again_is_refused() -> None:
    with pytest.raises(ValueError, match=r"front door has two cells for close \(HTTP\) in \(none\)"):
        Machine(FrontDoor, ("OPEN", "SHUT"), {(Slammed, CLOSE): {NONE: CELLS[NONE]}, CLOSE: CELLS})


def test_a_cell_that_only_some_events_share_is_missing_for_the_other() -> None:
    with pytest.raises(ValueError, match=r"does not decide what Slammed means in \(none\)"):
        Machine(FrontDoor, ("OPEN", "SHUT"), {CLOSE: CELLS, Slammed: _without_none(FORCED)})


def _without_none(cells: dict[str, Cell]) -> dict[str, Cell]:
    return {state: cell for state, cell in cells.items() if state != NONE}


def test_a_name_of_an_event_is_refused() -> None:
    wrong: Any = {"Slammed": CELLS}
    with pytest.raises(TypeError, match="write the class itself, not its name"):
        Machine(FrontDoor, ("OPEN", "SHUT"), wrong)


def test_a_command_that_means_something_moves() -> None:
    door = FrontDoor("OPEN")
    assert machine().move(door, CLOSE)
    assert door.state == "SHUT"


def test_a_command_that_means_nothing_is_counted() -> None:
    labels = {"machine": "counted door", "state": "SHUT", "event": "close (HTTP)"}
    assert not machine(name="counted door").move(FrontDoor("SHUT"), CLOSE)
    assert REGISTRY.get_sample_value("exactly_once_events_ignored_total", labels) == 1


def test_a_command_that_cannot_be_is_rejected_with_the_reason() -> None:
    with pytest.raises(Reject, match=r"close \(HTTP\) is refused for front door in state OPEN: it sticks"):
        machine({**CELLS, "OPEN": refuse("it sticks")}).move(FrontDoor("OPEN"), CLOSE)


def test_a_row_is_moved_where_the_table_leads() -> None:
    for target in ("SHUT", "OPEN"):
        door = FrontDoor("OPEN")
        assert machine().move(door, Slammed, target)
        assert door.state == target


def test_one_of_several_states_must_be_chosen() -> None:
    with pytest.raises(ValueError, match="does not lead from SHUT by Slammed to AJAR, only to OPEN"):
        machine().move(FrontDoor("SHUT"), Slammed, "AJAR")


def test_a_state_that_the_table_does_not_know_is_no_key_error() -> None:
    with pytest.raises(LookupError, match="front door is in state AJAR, which its table does not know"):
        machine().move(FrontDoor("AJAR"), CLOSE)
