"""A broker freezes for longer than every session, as on a paused machine: its workers recover by themselves.

While it wakes, their clients join again; some do so twice, and fence themselves.
"""

import time
from pathlib import Path

import pytest

from dev.servers import Servers
from dev.servers.places import free_port
from tests.faults.stage import Stage

pytestmark = pytest.mark.proof

WORKERS = 6
FROZEN_SECONDS = 12.0


@pytest.mark.timeout(240)
def test_nobody_ends_and_nobody_is_accused(breakable_servers: Servers, tmp_path: Path) -> None:
    with Stage(breakable_servers, tmp_path, partitions=WORKERS) as stage:
        workers = [stage.worker(metrics_port=free_port()) for _ in range(WORKERS)]
        stage.ask()
        stage.until_drained()
        stage.until_shared(WORKERS)
        breakable_servers.kafka.freeze()
        began = time.monotonic()
        try:
            stage.until(lambda: time.monotonic() > began + FROZEN_SECONDS, "some time has passed")
        finally:
            breakable_servers.kafka.thaw()
        stage.ask()
        stage.request()
        stage.until_drained()
        stage.until(lambda: all(worker.ready()[0] == 200 for worker in workers), "all work")
        assert [worker.restarts for worker in workers] == [0] * WORKERS
        assert "another process" not in stage.logged()
        stage.stop()
        assert stage.problems() == []
