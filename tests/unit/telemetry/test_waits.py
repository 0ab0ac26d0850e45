"""A long wait is reported once, with its limit: the innermost one."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from shared.kafka import producer
from shared.telemetry import waits
from shared.telemetry.waits import LONG_SECONDS, MAIN_LOOP, Waits
from shared.testing import until
from tests.faults import trail
from tests.faults.stage import StageSettings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the details of the logged lines."""
    lines: list[str] = []
    monkeypatch.setattr(waits, "log", SimpleNamespace(warning=lambda _event, detail: lines.append(detail)))
    return lines


def test_a_wait_is_told_once_and_only_when_it_is_long(log_lines: list[str]) -> None:
    clock = Clock()
    here = Waits(clock)
    with here.waiting("a lock", 5) as wait:
        here.tell()
        assert not here.words()
        assert not log_lines
        clock.now += LONG_SECONDS + 1
        wait.what = "the lock of a row"
        here.tell()
        here.tell()
        assert log_lines == [here.words()]
        assert here.words().startswith("it has been waiting 4 s for the lock of a row, until ")
        clock.now += 5
        assert here.words() == "it has been waiting 9 s for the lock of a row, beyond its limit of 5 s"
    assert not here.words()


def test_what_is_told_is_the_innermost_that_is_long(log_lines: list[str]) -> None:
    clock = Clock()
    here = Waits(clock)
    with here.waiting("a recovery", 36):
        clock.now += LONG_SECONDS
        for _ in range(3):
            with here.waiting("a quick answer", 5):  # asked for again and again
                here.tell()
                clock.now += 0.1
        assert len(log_lines) == 1
        assert "for a recovery" in log_lines[0]
        with here.waiting("a slow answer", 5):
            clock.now += LONG_SECONDS
            here.tell()
            assert "for a slow answer" in here.words()
        clock.now += LONG_SECONDS
        here.tell()  # it has been told
    assert len(log_lines) == 2
    assert "for a slow answer" in log_lines[1]


def test_a_wait_that_ends_after_the_one_around_it_brings_nothing_back() -> None:
    clock = Clock()
    here = Waits(clock)
    around = here.begin("a recovery", 30)
    within = here.begin("an answer", 30)
    here.end(around)
    here.end(within)
    clock.now += LONG_SECONDS
    assert not here.words()


def test_a_new_producer_says_that_it_waits_for_the_transaction_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(producer, "see_ended", lambda *_: None)
    ended = threading.Event()

    def make(_configuration: object, *, logger: object) -> Any:
        nothing = {name: lambda *_, **__: None for name in ("list_topics", "poll", "purge")}
        return SimpleNamespace(init_transactions=lambda _: ended.wait(10), **nothing)

    settings = StageSettings.model_validate({"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x"})
    made = producer.TransactionalProducer(settings, trail.make("waits").service, 0, make)
    renewing = threading.Thread(target=made.renew, daemon=True)
    renewing.start()
    until(lambda: "what our predecessor left open" in MAIN_LOOP.words(), "it says so", seconds=10)
    ended.set()
    renewing.join(10)
    assert not MAIN_LOOP.words()
