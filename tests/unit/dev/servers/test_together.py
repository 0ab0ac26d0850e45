"""Nothing is left of servers that were to be started, however early they are given up."""

from pathlib import Path

import pytest

from dev.develop.ending import Ending
from dev.servers import places, running
from dev.servers.together import running_cluster


@pytest.mark.parametrize("start", [running, running_cluster])
def test_a_terminal_that_is_gone_before_the_first_line_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: type
) -> None:
    def gone(_: str) -> None:
        assert list(tmp_path.iterdir())
        raise OSError("the terminal is gone")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(places, "account", lambda: None)  # root's folders are closed to `nobody`
    with pytest.raises(OSError, match="terminal is gone"), start(report=gone):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_removes_the_data_though_something_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError("the disk is full")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(places, "account", lambda: None)  # root's folders are closed to `nobody`
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    data = places.run_directory() / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").touch()
    ending = Ending()
    ending.begun = True
    ending.at_once += [full, places.abandon]
    ending._on_signal(2, None)
    assert codes == [130]
    assert list(tmp_path.iterdir()) == []
