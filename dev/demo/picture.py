"""A run of the demo, drawn as an SVG: the picture at the head of the README."""

import io
import re
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI

COLUMNS = 104
"""Wide enough for the balance sheet; what happened wraps."""
FIRST, LAST = 4, 6
"""Of the lines above the balance sheet: how it begins and how it ends. Those between look alike."""

FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""What rich would fetch from elsewhere; a forge shows a picture without it in any case."""


def svg(lines: Sequence[str], results: Sequence[RenderableType]) -> str:
    """Draw the command, the first and last lines of what happened, and the results.

    `lines` are in rich's markup. The same input makes the same picture, so that a new one differs where the run does.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print("[bold green]$[/bold green] make demo", highlight=False)
    shown = [*lines[:FIRST], "       ...", *lines[-LAST:]] if len(lines) > FIRST + LAST + 1 else lines
    for line in shown:
        console.print(line, highlight=False, soft_wrap=True)
    for result in results:
        console.print(result, highlight=False)
    return FONTS.sub("", console.export_svg(title="make demo", theme=MONOKAI, unique_id="demo"))
