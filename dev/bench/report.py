"""The results, as a table for people or as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number, and its target."""

    section: str
    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """None without a target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {number(self.at_least)}"
        return "" if self.at_most is None else f"<= {number(self.at_most)}"


def number(value: float) -> str:
    """Write a number with its significant digits."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def write(figures: Sequence[Figure], machine: Mapping[str, str], *, as_json: bool, markdown: bool = False) -> None:
    """Print the results and the machine to standard output."""
    if as_json:
        found = [asdict(figure) | {"reached": figure.reached} for figure in figures]
        print(json.dumps({"machine": machine, "figures": found}, indent=2))
        return
    # A file or a pipe has no width to keep to.
    console = Console(width=None if Console().is_terminal else 160)
    console.print("\n".join(f"{name}: {value}" for name, value in machine.items()), highlight=False)
    table = Table(box=MARKDOWN if markdown else SIMPLE_HEAD)
    table.add_column("section")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("to reach", justify="right")
    table.add_column("")
    section = ""
    for figure in figures:
        told = {None: "", True: "yes", False: "NO"}[figure.reached]
        name = "" if figure.section == section else figure.section
        table.add_row(name, figure.what, number(figure.value), figure.unit, figure.target, told)
        section = figure.section
    console.print(table)
