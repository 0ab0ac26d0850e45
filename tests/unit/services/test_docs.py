"""The state tables in docs/services.md are those of the code. `python -m tests.unit.services.test_docs` writes them."""

from pathlib import Path
from typing import Any

from services.inventory.handlers import RESERVATION
from services.order.handlers import ORDER
from services.payment.states import PAYMENT
from shared.states import Cell, Machine, name_of
from tests.unit.services.test_saga_contracts import PUBLISHED, SERVICES

PAGE = Path("docs/services.md")
MACHINES = (ORDER, RESERVATION, PAYMENT)


def table(machine: Machine[Any]) -> str:
    """Return the table of `machine` in Markdown: a row for each state, a column for each event."""
    lines = [
        f"| {machine.name} | " + " | ".join(map(name_of, machine.table)) + " |",
        "|---" * (len(machine.table) + 1) + "|",
    ]
    for state in machine.states:
        cells = [_cell(cells[state]) for cells in machine.table.values()]
        lines.append(f"| {state} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    if cell.refused:
        return f"*refused*: {cell.why}"
    return "**" + " or ".join(cell.to) + "**" if cell.to else f"ignored: {cell.why}"


def written(page: str) -> str:
    """Return `page` with the tables of today."""
    for machine in MACHINES:
        before, begin, rest = page.partition(f"<!-- states of {machine.name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert begin, f"{PAGE} has no place for the states of {machine.name}"
        page = f"{before}{begin}{table(machine)}\n{end}{after}"
    return page


def test_the_page_shows_the_tables_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == written(page), (
        f"the tables in {PAGE} are not those of the code: write them with `python -m tests.unit.services.test_docs`"
    )


def test_the_page_names_every_event() -> None:
    page = PAGE.read_text()
    missing = {type(event).__name__ for event in PUBLISHED if f"`{type(event).__name__}`" not in page}
    assert not missing, f"{PAGE} does not name {sorted(missing)}: add them to the row `publishes` of their service"


def test_the_page_names_what_each_service_consumes() -> None:
    page = PAGE.read_text()
    for service in SERVICES:
        row = page.split(f"## {service.name}\n")[1].split("| consumes |")[1].split("\n")[0]
        for route in service.routes:
            for word in (route.event.topic, route.event.__name__):
                assert f"`{word}`" in row, f"{PAGE}: add `{word}` to the row `consumes` of {service.name}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
