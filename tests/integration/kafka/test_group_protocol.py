"""KIP-848, the new group protocol, is a setting: workers that come and go under it lose nothing and repeat nothing."""

from pathlib import Path

from dev.servers import Servers
from tests.faults.stage import Stage


def test_workers_come_and_go_under_the_new_protocol(servers: Servers, tmp_path: Path) -> None:
    with Stage(servers, tmp_path, group_protocol="consumer", leave_group_on_shutdown=True) as stage:
        stage.worker()
        stage.ask()
        stage.request()
        stage.until_drained()

        second = stage.worker()
        for _ in range(3):
            stage.until_shared(2)
            stage.ask()
            stage.request()
            stage.until_drained()
            second.stopped = True
            second.process.terminate()
            assert second.ended() == 0
            second = stage.worker()

        stage.until_shared(2)
        stage.ask()
        stage.until_drained()
        stage.stop()
        assert stage.problems() == []
