"""The stage of the tests of calls; they need no Kafka."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import Postgres
from tests.integration.calls.paying import Stage


@pytest.fixture
def paying(postgres: Postgres, tmp_path: Path) -> Iterator[Stage]:
    """A service that pays bills, and its bank."""
    with Stage(postgres, tmp_path) as stage:
        yield stage
