"""Spreads tests over the processes of a run: most tests wait, so many run side by side on two cores.

A file is one piece if its tests are short or share what takes seconds to make. Elsewhere each test is a piece. The
pieces that may take longest begin first, and the short ones fill the end.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TESTS = Path(__file__).parent
SHARES = re.compile(r'scope="module"|\bbreakable_servers\b')
"""Found in files whose tests share something that takes seconds to make."""

SIMULATION, UNIT = "tests/simulation/", "tests/unit/"
"""Folders whose tests compute and do not wait. The simulation's files share results and take longest."""


@cache
def together(file: str) -> bool:
    """Return whether the tests of a file run one after the other in one process."""
    if file.startswith((SIMULATION, UNIT)):
        return True
    path = TESTS.parent / file
    folders = [folder for folder in path.parents if TESTS in folder.parents]
    texts = [path, *(beside for folder in folders if (beside := folder / "conftest.py").exists())]
    return any(SHARES.search(text.read_text()) for text in texts)


class Spread(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out the pieces in the order in which the tests are collected."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return file if together(file) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Spread:
    """Return the scheduler, in the process that hands out the tests."""
    config.option.loadscopereorder = False
    return Spread(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start first the tests with the longest time limits."""
    limit = float(config.getini("timeout"))
    longest: dict[str, float] = {}

    def piece(item: pytest.Item) -> str:
        file = item.nodeid.split("::", 1)[0]
        return file if together(file) else item.nodeid

    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker else limit
        longest[piece(item)] = max(longest.get(piece(item), 0.0), seconds)

    def turn(item: pytest.Item) -> tuple[bool, bool, float]:
        return item.nodeid.startswith(UNIT), not item.nodeid.startswith(SIMULATION), -longest[piece(item)]

    items.sort(key=turn)
