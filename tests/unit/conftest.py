"""Fixtures that unit tests of several modules share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import Settings
from shared.worker import backoff, stops
from tests.unit.worker.worker_scene import Scene


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A worker without servers, which waits hundredths of a second."""
    for name in ("CONFIRM_SECONDS", "PROBE_MIN", "PROBE_MAX"):
        monkeypatch.setattr(stops, name, 0.01)
    monkeypatch.setattr(backoff, "PAUSE_MAX", 0.01)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    made = Scene()
    yield made
    made.end()


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the two settings without a default are set: `make servers` leaves a `.env.local` in the repository."""
    monkeypatch.chdir(tmp_path)
    for name in {name.upper() for name in Settings.model_fields} & os.environ.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:swordfish@127.0.0.1/{service}")
