"""A worker replaces Kafka clients that cannot go on, and says what it waits for."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from shared.errors import Fenced, KafkaUnavailable, SlotLost
from shared.protocol.cycle import Cycle, Progress
from shared.protocol.ports import NOTHING
from shared.telemetry import waits
from shared.testing import SECONDS_MAX, until
from shared.worker import main_loop
from shared.worker.retries import ParkedRetries
from shared.worker.turns import WAIT_MAX, WAIT_TOLD
from tests.unit.worker.worker_scene import Scene, Seeing


def test_a_fenced_worker_whose_slot_is_its_own_goes_on_with_new_clients(scene: Scene) -> None:
    scene.raises = [Fenced("FENCED_INSTANCE_ID")]
    scene.start()
    assert scene.idle.wait(SECONDS_MAX), "it goes on"
    assert [member.closed for member in scene.members] == [True, False]


def test_a_fenced_worker_whose_slot_is_taken_ends(scene: Scene) -> None:
    scene.raises = [Fenced("FENCED_INSTANCE_ID")]
    lost = scene.database.hold_slot
    calls = iter([False, True])

    def hold() -> None:
        scene.database.lost = next(calls)  # R0 of the first recovery, then the question after the fence
        lost()

    scene.database.hold_slot = hold  # type: ignore[method-assign]
    scene.start()
    until(lambda: scene.ended, "it ends")
    assert isinstance(scene.ended[0], SlotLost)
    assert len(scene.members) == 1, "the one who has the slot is not disturbed"


def test_clients_that_get_no_answer_for_long_are_replaced(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_loop, "CLIENTS_SECONDS", 0.0)
    scene.raises = [KafkaUnavailable("_UNKNOWN_PARTITION")]
    scene.start()
    assert scene.idle.wait(SECONDS_MAX), "it goes on"
    assert len(scene.members) == 2


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the log's lines about waits, each of which is long at once."""
    lines: list[str] = []
    monkeypatch.setattr(waits, "LONG_SECONDS", 0.0)
    log = SimpleNamespace(warning=lambda event, detail: lines.append(f"{event}: {detail}"))
    monkeypatch.setattr(waits, "log", log)
    return lines


def test_a_recovery_that_takes_long_reports_what_it_waits_for_and_until_when(
    scene: Scene, log_lines: list[str]
) -> None:
    scene.may_renew.clear()
    scene.start()
    scene.until(r"recovering; it has been waiting \d+ s for the servers")
    assert re.search(r"until \d\d:\d\d:\d\d UTC at the latest", scene.worker.ready()[1])
    until(lambda: log_lines, "the log says it too")
    scene.may_renew.set()
    scene.until("working")
    assert "for the servers" not in scene.worker.ready()[1]
    assert len([line for line in log_lines if "for the servers" in line]) == 1


def test_who_waits_for_a_share_says_until_when(scene: Scene, log_lines: list[str]) -> None:
    scene.assigned = False
    scene.start()
    scene.until(r"assigned this worker a share yet; it has been waiting \d+ s for its group")
    until(lambda: log_lines, "the log says it too")
    polls = scene.polls
    until(lambda: scene.polls > polls + 20, "it looks again")
    scene.assigned = True
    scene.until("working")
    assert "for its group" not in scene.worker.ready()[1]
    assert len([line for line in log_lines if "for its group" in line]) == 1


def test_a_recovery_says_which_server_is_silent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.may_renew.clear()
    scene.start()
    scene.until("recovering")
    monkeypatch.setattr(Seeing, "silence", lambda _: "Kafka has not answered for 11 s")
    assert scene.worker.ready()[1].startswith("recovering; Kafka has not answered for 11 s")
    monkeypatch.undo()
    scene.may_renew.set()


@pytest.mark.parametrize(("part", "failed", "paced"), [(0.6, None, [50]), (0.4, None, []), (0.6, KeyError("x"), [])])
def test_a_batch_that_took_half_of_the_budget_is_as_large_as_they_get(
    scene: Scene, part: float, failed: Exception | None, paced: list[int]
) -> None:
    scene.start()
    scene.end()
    loop = scene.worker._main_loop
    found: list[int] = []
    cycle: Any = SimpleNamespace(
        owned=NOTHING, parked=dict, waiting={}, parking_filled=0.0, paused=(), pace=found.append
    )
    progress = Progress(received=50, handled=50, failed=failed)
    loop._after(cycle, progress, part * loop._settings.handler_seconds, assigned=True)
    assert found == paced


@pytest.mark.parametrize(
    ("listening", "assigned", "parked", "wakes"),
    [(True, True, {}, True), (False, True, {}, False), (True, False, {}, False), (True, True, {"orders": 1}, False)],
    ids=["it would be woken", "it would not", "its share is to come", "a parked input is to be tried again"],
)
def test_a_worker_waits_long_only_if_all_that_may_come_would_end_the_wait(
    scene: Scene, *, listening: bool, assigned: bool, parked: dict[str, int], wakes: bool
) -> None:
    scene.start()
    scene.end()
    scene.wakeup.listening = listening
    cycle: Any = SimpleNamespace(parked=lambda: parked)
    assert scene.worker._main_loop._wakes(cycle, assigned=assigned) is wakes


@pytest.mark.parametrize(
    ("progress", "woken", "knows"),
    [
        (Progress(received=3, published=2), False, True),
        (Progress(idle=True), False, True),
        (Progress(received=3, skipped=3), False, True),
        (Progress(received=3, published=2), True, False),
        (Progress(idle=True), True, False),
        (Progress(published=1), False, False),
        (Progress(), False, False),
    ],
    ids=["records", "nothing", "skipped", "told", "told, gone", "found", "a new share"],
)
def test_a_worker_asks_soon_where_a_row_may_wait_that_nobody_told_of(
    progress: Progress, *, woken: bool, knows: bool
) -> None:
    waking: Any = SimpleNamespace(woken=woken)
    assert main_loop._knows(progress, waking) is knows


@pytest.mark.parametrize(
    ("done", "tried", "woken", "waits"),
    [
        (Progress(received=3, published=2), Progress(idle=True), False, WAIT_MAX),
        (Progress(received=3, published=2), Progress(idle=True), True, WAIT_TOLD),
        (Progress(published=1), Progress(idle=True), False, WAIT_TOLD),
        (Progress(received=3, published=10_000), Progress(idle=True), False, 0),
        (Progress(received=3, published=2), Progress(received=1, handled=1), False, 0),
    ],
    ids=["records", "told of a row", "found a row", "a full claim", "parked records were tried"],
)
def test_how_long_a_worker_waits_after_a_cycle(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, done: Progress, tried: Progress, *, woken: bool, waits: float
) -> None:
    waited: list[float] = []

    def run(cycle: Any, seconds: float, *, report: bool) -> Progress:
        del report
        waited.append(seconds)
        polled = cycle._kafka.poll(1, seconds)
        if len(waited) == 2:
            scene.wakeup.woken = woken
            cycle._kafka.poll(1, seconds)
        elif len(waited) > 3:
            scene.worker._stopping.set()
        assert polled is not None
        return done if len(waited) == 2 else Progress(idle=True)

    tries = iter([Progress(idle=True), tried])
    monkeypatch.setattr(Cycle, "run", run)
    monkeypatch.setattr(Cycle, "retry", lambda _cycle, *, count: next(tries, Progress(idle=not count)))
    monkeypatch.setattr(ParkedRetries, "are_due", lambda _self, _cycle, *, count: count is not None)
    scene.start()
    until(lambda: len(waited) > 3, "it waits once more")
    scene.end()
    assert waited[2] == waits
