"""What says where the servers are may be broken, and the bank forgets what it has booked for servers that are gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dev.servers import background

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
