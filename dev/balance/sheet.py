"""The balance sheet: each row has a number, the expected number, and the offenders if they differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

OFFENDERS_SHOWN = 20
"""Enough to see a pattern; the count covers the rest."""


@dataclass
class Offenders:
    """A count and the first few offenders; each text begins with the offender's id."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, offender: str) -> None:
        self.count += 1
        if len(self.first) < OFFENDERS_SHOWN:
            self.first.append(offender)

    def extend(self, more: "Offenders") -> None:
        self.count += more.count
        self.first += more.first[: OFFENDERS_SHOWN - len(self.first)]


@dataclass(frozen=True)
class Row:
    """One thing that was counted."""

    what: str
    found: int
    expected: int = 0
    offenders: Sequence[str] = ()
    of_orders: bool = False
    """Whether the offenders begin with the ids of orders."""

    @property
    def ok(self) -> bool:
        return self.found == self.expected


def none(what: str, offenders: Offenders, *, of_orders: bool = False) -> Row:
    """Count rows that must not exist."""
    return Row(what, offenders.count, 0, tuple(offenders.first), of_orders)


@dataclass
class Sheet:
    """All rows, by section, and what is known of the offenders."""

    sections: dict[str, list[Row]] = field(default_factory=dict)
    dossiers: list[str] = field(default_factory=list)
    """For each offending order, everything that the three services and the topics know of it."""
    drained_seconds: float = 0.0

    def add(self, section: str, *rows: Row) -> None:
        if rows:
            self.sections.setdefault(section, []).extend(rows)

    @property
    def rows(self) -> Iterable[Row]:
        return (row for rows in self.sections.values() for row in rows)

    @property
    def balanced(self) -> bool:
        return all(row.ok for row in self.rows)

    @property
    def failed(self) -> tuple[str, ...]:
        """The rows that fail, by name."""
        return tuple(row.what for row in self.rows if not row.ok)

    def as_dict(self) -> dict[str, object]:
        """For machines."""
        return {
            "balanced": self.balanced,
            "drained_seconds": round(self.drained_seconds, 3),
            "rows": [
                {"section": section, "what": r.what, "found": r.found, "expected": r.expected, "ok": r.ok}
                | ({"offenders": list(r.offenders)} if r.offenders else {})
                for section, rows in self.sections.items()
                for r in rows
            ],
            "dossiers": self.dossiers,
        }

    def render(self) -> RenderableType:
        """For people."""
        table = Table(title="The balance sheet", title_style="bold", title_justify="left", box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        table.add_column("found", justify="right")
        table.add_column("expected", justify="right")
        table.add_column("")
        for section, rows in self.sections.items():
            table.add_row(Text(section, style="bold"))
            for row in rows:
                result = Text("ok", style="green") if row.ok else Text("NOT OK", style="bold red")
                table.add_row(f"  {row.what}", f"{row.found:,}", f"{row.expected:,}", result)
        parts: list[RenderableType] = [table]
        for row in self.rows:
            if not row.ok and row.offenders:
                more = f" (the first {OFFENDERS_SHOWN})" if len(row.offenders) == OFFENDERS_SHOWN else ""
                parts.append(Text(f"\n{row.what}{more}:\n  " + "\n  ".join(row.offenders), style="red"))
        parts += [Text(f"\n{dossier}") for dossier in self.dossiers]
        failed = len(self.failed)
        parts.append(
            Text("\nIt balances.", style="bold green")
            if self.balanced
            else Text(f"\nIt does NOT balance: {failed} of {len(list(self.rows))} rows are wrong.", style="bold red")
        )
        return Group(*parts)

    def text(self) -> str:
        """Return it without colour, for a log or an assertion's message."""
        console = Console(width=160, no_color=True, force_terminal=False)
        with console.capture() as capture:
            console.print(self.render(), soft_wrap=True)
        return capture.get()
