"""`make test` plays some cells of each matrix, so that it meets every kind of fault; `make proof` plays the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def chosen(cells: Iterable[object], *names: str) -> list[Any]:
    """Return the cells as parameters of a test, marked as proof unless they are named."""
    cells = list(cells)
    if unknown := set(names) - set(map(str, cells)):
        raise ValueError(f"no cell is called {', '.join(sorted(unknown))}")
    return [cell if str(cell) in names else pytest.param(cell, marks=pytest.mark.proof) for cell in cells]
