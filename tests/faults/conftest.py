"""Cells are played side by side, since most of a cell is waiting, and reported one by one."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dev.servers import Servers

CELLS_AT_ONCE = 6
"""More would make a session timeout of a second too short on two cores."""

Play = Callable[[Any, Servers, Path], list[str]]


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[list[str]]"]]:
    """Begin to play all selected cells of a module, whose tests have a parameter `cell` each; by the test's name."""
    logs = tmp_path_factory.mktemp("logs")
    chosen = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and "cell" in item.callspec.params
    ]
    with ThreadPoolExecutor(CELLS_AT_ONCE) as pool:
        yield {item.name: pool.submit(item.module.play, item.callspec.params["cell"], servers, logs) for item in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def problems(request: pytest.FixtureRequest, plays: dict[str, "Future[list[str]]"]) -> list[str]:
    """What is wrong at the end of this test's cell."""
    return plays[request.node.name].result()
