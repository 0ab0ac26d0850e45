"""Fixtures that unit tests of several modules share."""

from collections.abc import Iterator

import pytest

from shared.worker import backoff, stops
from tests.unit.worker.worker_scene import Scene


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A worker with no servers, which waits a hundredth of a second where others wait some."""
    for name in ("CONFIRM_SECONDS", "PROBE_MIN", "PROBE_MAX"):
        monkeypatch.setattr(stops, name, 0.01)
    monkeypatch.setattr(backoff, "PAUSE_MAX", 0.01)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    made = Scene()
    yield made
    made.end()
