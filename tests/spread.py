"""Spreads tests over the processes of a run: most tests wait, so many run side by side on two cores.

A file is one piece if its tests are short or share what takes seconds to make. Elsewhere each test is a piece. Those
that compute for minutes make two pieces, so that two of them run at a time. The pieces that may take longest begin
first, and the short ones fill the end.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests import until

TESTS = Path(__file__).parent
SHARES = re.compile(r'scope="module"|\bbreakable_servers\b')
"""Found in files whose tests share something that takes seconds to make."""

SIMULATION, UNIT = "tests/simulation/", "tests/unit/"
"""Folders whose tests compute and do not wait. The simulation's files share results and take longest."""

LARGE, LARGE_AT_ONCE = "tests/dev/", 2
"""They run whole systems, other test runs and checkers, each of which takes the cores that it gets. Eight of them at a
time took three times as long, and everything beside them missed its deadlines.
"""


@cache
def piece(file: str, test: str) -> str:
    """Return the name of the piece to which a test of a file belongs."""
    if file.startswith(LARGE):
        files = sorted(path.name for path in (TESTS.parent / LARGE).glob("test_*.py"))
        return f"{LARGE}{files.index(Path(file).name) % LARGE_AT_ONCE}"
    return file if together(file) else test


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
        return piece(nodeid.split("::", 1)[0], nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Spread:
    """Return the scheduler, in the process that hands out the tests."""
    config.option.loadscopereorder = False
    return Spread(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start first the tests with the longest time limits; in any order, if the time may not be enough for all."""
    limit = float(config.getini("timeout"))
    longest: dict[str, float] = {}

    def piece_of(item: pytest.Item) -> str:
        return piece(item.nodeid.split("::", 1)[0], item.nodeid)

    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker else limit
        longest[piece_of(item)] = max(longest.get(piece_of(item), 0.0), seconds)

    def turn(item: pytest.Item) -> tuple[str, bool, bool, float]:
        name = piece_of(item)
        unit, simulation = item.nodeid.startswith(UNIT), item.nodeid.startswith(SIMULATION)
        return until.turn(config, name), unit, not simulation, -longest[name]

    items.sort(key=turn)
