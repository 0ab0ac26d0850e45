"""A worker waits only with a bound and a sentence."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from shared.errors import DatabaseUnavailable
from shared.worker import backoff, standby
from shared.worker.stopping import Stopping


class Database:
    """A PostgreSQL whose clock was set back by two hours since it started."""

    slot: int | None = None

    def settle_seconds(self) -> float:
        return 7_205.0

    def take_slot(self) -> bool:
        self.slot = 0
        return True


class Waits(Stopping):
    """Notes each wait, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


class Down(Database):
    """A PostgreSQL that does not answer the first time, and has no free slot the second time."""

    def __init__(self) -> None:
        self._answers = iter((DatabaseUnavailable("it is down"), None, 0))

    def settle_seconds(self) -> float:
        return 0.0

    def take_slot(self) -> bool:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        self.slot = answer
        return answer is not None


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(f"{event} {facts}")


def test_a_clock_of_the_server_that_was_set_back_keeps_no_worker_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr(standby, "log", log)
    monkeypatch.setattr(standby, "SETTLE_SECONDS", 0.05)
    stopping = Stopping()
    health: Any = SimpleNamespace(enter=lambda *_: None)
    waiting = backoff.Backoff(health, SimpleNamespace(), stopping)  # type: ignore[arg-type]
    made = standby.Standby(Database(), 1, health, waiting, stopping)  # type: ignore[arg-type]
    taken: list[bool] = []
    taking = threading.Thread(target=lambda: taken.append(made.take_slot()), daemon=True)
    taking.start()
    taking.join(20)

    assert taken == [True]
    (line,) = log.lines
    assert line.startswith("settling")
    assert "PostgreSQL has just started" in line


def test_a_free_slot_is_looked_for_often_and_a_database_that_is_down_is_left_in_peace() -> None:
    stopping = Waits()
    health: Any = SimpleNamespace(enter=lambda *_, **__: None, standing_by=lambda: None, is_ready=True)
    watchdog: Any = SimpleNamespace(rest=lambda: None)
    made = standby.Standby(Down(), 1, health, backoff.Backoff(health, watchdog, stopping), stopping)  # type: ignore[arg-type]

    assert made.take_slot()

    down, taken = stopping.seconds
    assert down >= standby.DOWN_SECONDS / 2
    assert taken == standby.STANDBY_SECONDS < standby.DOWN_SECONDS / 2
