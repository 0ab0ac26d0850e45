"""What an operator reads: lines, aligned columns, or JSON for programs."""

import json
import sys
from collections.abc import Sequence


def say(line: str = "") -> None:
    """Print a line of the answer."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """Print a line about what is going on; it is no part of the answer."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print `rows` under `heads`, aligned; an absent value is shown as a dash."""
    cells = [list(heads), *[["-" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def as_json(value: object) -> None:
    """Print a value for programs."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def age(seconds: float | None) -> str | None:
    """Say how old something is, in one unit."""
    if seconds is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
