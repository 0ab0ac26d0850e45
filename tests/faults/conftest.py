"""The fixture that makes a cell a test."""

from pathlib import Path

import pytest

from dev.servers import Servers


@pytest.fixture
def problems(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> list[str]:
    """Play the test's parameter `cell` by its module's `play`; return the problems found."""
    found: list[str] = request.module.play(request.getfixturevalue("cell"), servers, tmp_path)
    return found
