"""What says where the servers are may be broken, and the bank forgets what it has booked for servers that are gone."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dev.servers import background
from dev.servers.places import HOST, free_port

BROKEN = ("{garb", "{}", "[]", "1", "\xff", *(f'{{"pid": {pid}}}' for pid in ("null", "1", "-1", '"x"')))


@pytest.fixture
def books(tmp_path: Path) -> tuple[Path, ...]:
    """The files of a bank that an earlier session has left."""
    (tmp_path / background.HOME).mkdir()
    files = tuple(tmp_path / background.HOME / f"bank.sqlite{end}" for end in ("", "-wal", "-shm"))
    for file in files:
        file.touch()
    return files


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_state_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / background.HOME).mkdir()
    (tmp_path / background.STATE).write_text(text)
    assert not background.is_up(tmp_path)
    background.down(tmp_path)
    assert not (tmp_path / background.STATE).exists()


def test_new_servers_begin_without_bookings(
    tmp_path: Path, books: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their topics begin at offset 0 again, and the bank would take new payments for those that it knows."""

    @contextmanager
    def running(**_: Any) -> Iterator[Any]:
        assert not any(file.exists() for file in books)
        yield SimpleNamespace(
            kafka=SimpleNamespace(bootstrap="kafka:9092"), postgres=SimpleNamespace(dsn=lambda database: database)
        )

    monkeypatch.setattr(background, "running", running)
    with background.held(tmp_path, None, None):
        assert background.is_up(tmp_path)


def test_bookings_go_with_the_servers(tmp_path: Path, books: tuple[Path, ...]) -> None:
    background.down(tmp_path)
    assert not any(file.exists() for file in books)


class Held:
    """Servers that run, by what they say; and their console, which SIGHUP starts."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.root, self.port, self.said = root, free_port(), list[str]()
        self.starts = True
        self._stack = stack
        own = psutil.Process()
        state = {
            "pid": str(os.getpid()),
            "started": str(own.create_time()),
            "bootstrap": "kafka:9092",
            "database_url": "postgresql://me@127.0.0.1:1/{service}",
            "console": f"http://{HOST}:{self.port}/",
        }
        (root / background.HOME).mkdir()
        (root / background.STATE).write_text(json.dumps(state))
        monkeypatch.setattr(psutil.Process, "send_signal", lambda *_: self.start())
        monkeypatch.setattr(background, "prepare", lambda *_: None)
        monkeypatch.setattr(background, "echo", self.said.append)

    def start(self) -> None:
        if self.starts:
            self._stack.enter_context(socket.create_server((HOST, self.port)))

    def up(self) -> str:
        background.up(self.root, None, None)
        return "\n".join(self.said)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    with ExitStack() as stack:
        yield Held(tmp_path, monkeypatch, stack)


def test_a_console_that_has_died_is_started_again_before_its_address_is_told(held: Held) -> None:
    said = held.up()

    assert said.index("the console was down, and is started again") < said.index(f"http://{HOST}:{held.port}/")
    with socket.create_connection((HOST, held.port)):
        pass


def test_a_console_that_does_not_come_back_is_not_reported_as_running(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "CONSOLE_SECONDS_MAX", 0.0, raising=False)
    held.starts = False

    said = held.up()

    assert "The console does not answer; .servers/console.log says why" in said
    assert "Kafka       kafka:9092" in said
    assert "http://" not in said
