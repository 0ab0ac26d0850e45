"""An incomplete table is refused at import; a complete one decides every pair."""

import enum
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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


DELETE = Command("delete")


def leading(*states: str) -> Machine[FrontDoor]:
    return machine({**CELLS, "OPEN": to(*states)})


@pytest.mark.parametrize(("states", "after"), [((NONE,), "OPEN"), ((NONE,), NONE), ((NONE, "SHUT"), NONE)])
def test_a_row_that_is_to_be_gone_is_not_written_into_the_column(states: tuple[str, ...], after: str) -> None:
    found, door = leading(*states), FrontDoor(after)
    with pytest.raises(ValueError, match=r"from OPEN by close \(HTTP\) to \(none\), where there is no row: delete"):
        found.settle(CLOSE, "OPEN", found.table[CLOSE]["OPEN"], door)
    assert door.state == after
    found.settle(CLOSE, "OPEN", found.table[CLOSE]["OPEN"], None)
    with pytest.raises(ValueError, match=r"does not lead from OPEN by close \(HTTP\) to \(none\), only to SHUT"):
        machine().settle(CLOSE, "OPEN", CELLS["OPEN"], FrontDoor(NONE))


def test_a_command_that_deletes_leaves_the_row_to_its_caller() -> None:
    for found, target in ((leading(NONE), None), (leading(NONE), NONE), (leading(NONE, "SHUT"), NONE)):
        door = FrontDoor("OPEN")
        assert found.move(door, CLOSE, target)
        assert door.state == "OPEN"
    with pytest.raises(ValueError, match=r"does not lead from OPEN by close \(HTTP\) to \(none\), only to SHUT"):
        machine().move(FrontDoor("OPEN"), CLOSE, NONE)


@pytest.mark.parametrize("states", [(), (["OPEN", "SHUT"],), (None,), (to,)])
def test_a_cell_leads_to_states(states: Any) -> None:
    with pytest.raises(TypeError, match=r"`to\(...\)` takes one state or several"):
        to(*states)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("SHUT", r"front door has 'SHUT' for close \(HTTP\) in OPEN: write `to\('SHUT'\)`"),
        (refuse, r"has <function refuse .* in OPEN: write `to\(...\)`, `ignore\(why\)` or `refuse\(why\)`"),
        (None, "has None for close"),
    ],
)
def test_what_is_no_cell_is_refused(cell: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        machine({**CELLS, "OPEN": cell})


def test_what_is_no_row_of_cells_is_refused() -> None:
    for cells in (to("SHUT"), None, "SHUT"):
        wrong: Any = {CLOSE: cells}
        with pytest.raises(TypeError, match=r"for close \(HTTP\): write a cell for each state, `{NONE: refuse"):
            Machine(FrontDoor, ("OPEN", "SHUT"), wrong)
    for state in (None, 5):
        wrong = {CLOSE: {**CELLS, state: ignore("why")}}
        with pytest.raises(TypeError, match=f"has a cell for close .HTTP. in {state}, which is no state"):
            Machine(FrontDoor, ("OPEN", "SHUT"), wrong)


class Old(str, enum.Enum):  # noqa: UP042 - as many have it
    OPEN = "open"
    SHUT = "shut"


def test_states_may_be_an_enumeration_of_text_in_the_old_form() -> None:
    ignored = {NONE: ignore("none"), Old.OPEN: ignore("it is open"), Old.SHUT: ignore("it is shut")}
    cells = {NONE: refuse("there is no door"), Old.OPEN: to(Old.SHUT), Old.SHUT: to(Old.OPEN, Old.SHUT)}
    found = Machine(FrontDoor, Old, {CLOSE: cells, Slammed: ignored}, name="old door")
    assert found.states == (NONE, "open", "shut")
    door = FrontDoor("open")  # as PostgreSQL gives it back
    assert found.move(door, CLOSE)
    assert door.state == "shut"
    assert found.move(door, CLOSE, Old.OPEN)
    assert not found.move(door, Slammed)
    labels = {"machine": "old door", "state": "open", "event": "Slammed"}
    assert REGISTRY.get_sample_value("exactly_once_events_ignored_total", labels) == 1


def test_states_that_are_no_text_are_refused() -> None:
    class Plain(enum.Enum):
        OPEN = "open"

    for states in (Plain, (1, 2)):
        wrong: Any = states
        with pytest.raises(TypeError, match=r"the states of front door are text: .* `class .*\(StrEnum\)`"):
            Machine(FrontDoor, wrong, {})
    with pytest.raises(TypeError, match=r"the states of front door are text"):
        Machine(FrontDoor, 5, {})  # type: ignore[arg-type]


def test_a_class_of_a_table_without_a_state_is_refused() -> None:
    class Base(DeclarativeBase):
        pass

    class Stateless(Base):
        __tablename__ = "stateless"
        id: Mapped[str] = mapped_column(primary_key=True)

    wrong: Any = Stateless
    with pytest.raises(TypeError, match="Stateless has no `state`: add the column, `state: Mapped"):
        Machine(wrong, ("OPEN",), {})


def test_the_form_of_before_is_refused_with_the_new_one() -> None:
    old: Any = "door"
    with pytest.raises(TypeError, match=r"`Machine\('door', ...\)`: its first argument is the class of the rows"):
        Machine(old, ("OPEN", "SHUT"), {CLOSE: CELLS})
    found: Any = machine()
    with pytest.raises(AttributeError, match=r"`ignores` is gone: .*`@service.on\(Event, MACHINE\)`"):
        found.ignores(FrontDoor("OPEN"), "Slammed")
    assert not hasattr(found, "anything")
    with pytest.raises(TypeError, match="front door has no row for 'Slammed': give the class of the event"):
        found.move(FrontDoor("OPEN"), "Slammed", "SHUT")
    with pytest.raises(TypeError, match=r"the table of front door has no row for Command\('delete'\)"):
        found.move(FrontDoor("OPEN"), DELETE)
