"""What a worker does with a reason to stop: it believes nothing that the servers do not say twice, and to others."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from shared import waits
from shared import worker as worker_module
from shared.errors import (
    Brake,
    ContentStuck,
    DatabaseUnavailable,
    DatabaseWentBack,
    Exit,
    Fenced,
    KafkaInDoubt,
    KafkaUnavailable,
    KafkaWentBack,
    LanesDiffer,
    NotDone,
    NotLetIn,
    OtherCluster,
    PositionMissing,
    RecordsLost,
    Refused,
    SlotLost,
    Stop,
    TooManyRecoveries,
    Unproven,
)
from shared.ports import NOTHING, Polled
from shared.worker import Worker
from tests.faults.stage import StageSettings
from tests.integration.tally import service
from tests.waiting import until

POSITIONS = (DatabaseWentBack, KafkaWentBack, PositionMissing, RecordsLost, OtherCluster, LanesDiffer)
NO_ANSWER: tuple[Exception, ...] = (
    # In the words of librdkafka 2.16, of libpq and of ours: whatever stands between a question and its answer.
    KafkaUnavailable("Local: Host resolution failure (broker 1)"),
    KafkaUnavailable("Local: Broker transport failure: Connection refused"),
    KafkaUnavailable("Local: Broker transport failure: Disconnected: connection reset by peer"),
    KafkaUnavailable("Local: Timed out"),
    KafkaUnavailable("Local: SSL error: handshake failed"),
    KafkaUnavailable("Local: Authentication failure: broken off"),
    KafkaUnavailable("_UNKNOWN_PARTITION: Local: Unknown partition"),
    KafkaUnavailable("LEADER_NOT_AVAILABLE: the leader did not answer how far it goes"),
    DatabaseUnavailable("PostgreSQL: the server closed the connection unexpectedly"),
    OperationalError("SELECT", {}, Exception("no connection")),
    NotDone("after 27 s Kafka still gives no committed offsets"),
    Refused("Kafka has no topic order.events"),
)


class Member:
    """A Kafka port that owns nothing, and whose polls raise what a test says."""

    def __init__(self, scene: "Scene") -> None:
        self._scene = scene
        self.closed = self.left = False

    @property
    def assigned(self) -> bool:
        """Whether the group has given it a share."""
        return self._scene.assigned

    def poll(self, _records: int, _seconds: float) -> Polled:
        """Raise the next error, or find nothing."""
        self._scene.polls += 1
        if self._scene.raises:
            raise self._scene.raises.pop(0)
        self._scene.idle.set()
        return Polled((), {}, NOTHING if self._scene.polls == 1 else None, "member")

    def committed(self, _inputs: object, _lanes: object) -> dict[Any, Any]:
        """Nothing."""
        return {}

    def renew(self) -> None:
        """A new producer."""
        assert self._scene.may_renew.wait(10)

    def read_from(self, _positions: object, _lanes: object) -> None:
        """Fetch nothing."""

    def pause(self, _inputs: object) -> None:
        """Nothing is fetched."""

    resume = pause

    def leave(self) -> None:
        """Leave the group."""
        self.left = True

    def close(self) -> None:
        """Close the client."""
        self.closed = True


class Held:
    """A database port without rows."""

    slot = 3
    at = None
    deadline = SimpleNamespace(install=lambda: None)

    def stuck(self) -> dict[Any, Any]:
        """No process ended at a record."""
        return {}

    def __init__(self) -> None:
        self.lost = False
        self.closed = 0

    def settle_seconds(self) -> float:
        """No wait."""
        return 0

    def take_slot(self) -> bool:
        """Always."""
        return True

    def hold_slot(self) -> None:
        """Whether it is still ours."""
        if self.lost:
            raise SlotLost

    def positions(self, _inputs: object) -> dict[Any, Any]:
        """None."""
        return {}

    claims = positions

    def unsaid(self, _lanes: object) -> bool:
        """Nothing."""
        return False

    def close(self) -> None:
        """End the session."""
        self.closed += 1


class Idle:
    """Housekeeping with nothing to keep."""

    def start(self) -> None:
        """Begin."""

    stop = start


class Seeing(Idle):
    """An observer to whom Kafka answers."""

    def silence(self) -> str:
        """Not silent."""
        return ""

    held_back = silence

    def heard(self) -> None:
        """It has answered."""

    def own(self, _inputs: object) -> None:
        """Whose lag is shown."""


class Scene:
    """A worker with no servers, which runs on a thread."""

    def __init__(self) -> None:
        self.raises: list[Exception] = []
        self.stands: Callable[[], Sequence[Stop]] = list
        self.asked = 0
        self.assigned = True
        self.may_renew = threading.Event()
        self.may_renew.set()
        self.polls = 0
        self.idle = threading.Event()
        self.members: list[Member] = []
        self.database = Held()
        self.check: Callable[[], None] = lambda: None
        self.ended: list[BaseException | None] = []
        settings = StageSettings.model_validate(
            {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://nowhere"}
        )
        self.worker = Worker(
            settings=settings,
            service=service("scene")[0],
            database=cast("Any", self.database),
            check=self._check,
            look_at_topics=lambda: None,
            stands=self._stands,
            connect=self._connect,
            housekeeping=cast("Any", Idle()),
            observer=cast("Any", Seeing()),
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _check(self) -> None:
        self.check()

    def _stands(self, _stop: object) -> Sequence[Stop]:
        self.asked += 1
        return self.stands()

    def _connect(self, _slot: int) -> Any:
        self.members.append(Member(self))
        return self.members[-1]

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.ended.append(error)
        else:
            self.ended.append(None)

    def start(self) -> None:
        """Let it run."""
        self._thread.start()

    def end(self) -> None:
        """Ask it to end, as SIGTERM does."""
        self.worker._stopping.set()
        self._thread.join(10)
        self.worker._watchdog.rest()  # it watches until the process ends, and this one is the tests' own
        assert not self._thread.is_alive()

    def until(self, word: str) -> None:
        """Wait until its health says so."""
        until(lambda: word in self.worker.ready()[1], word, seconds=10)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name in ("CONFIRM_SECONDS", "PROBE_MIN", "PROBE_MAX", "PAUSE_MAX"):
        monkeypatch.setattr(worker_module, name, 0.01)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    made = Scene()
    yield made
    made.end()


def fails(error: Exception) -> Callable[[], Sequence[Stop]]:
    """Answer with an error."""

    def answer() -> Sequence[Stop]:
        raise error

    return answer


@pytest.mark.parametrize("no_answer", NO_ANSWER, ids=lambda error: str(error)[:40])
@pytest.mark.parametrize("doubt", POSITIONS)
def test_nobody_stops_while_nobody_can_prove_it(scene: Scene, doubt: type[Stop], no_answer: Exception) -> None:
    scene.raises = [doubt("the client says so"), doubt("and again")]
    scene.stands = fails(no_answer)
    scene.start()
    assert scene.idle.wait(10), "it goes on"
    assert scene.asked == 2
    assert not scene.members[0].left
    scene.end()
    assert scene.ended == [None]


@pytest.mark.parametrize("no_answer", NO_ANSWER, ids=lambda error: str(error)[:40])
def test_nobody_stops_at_the_start_either(scene: Scene, no_answer: Exception) -> None:
    checks: list[Exception] = [OtherCluster("topic x was created again")]

    def check() -> None:
        if checks:
            raise checks.pop()

    scene.check = check
    scene.stands = fails(no_answer)
    scene.start()
    assert scene.idle.wait(10), "it goes on"


def test_what_the_servers_say_is_what_it_stops_for_and_goes_on_from(scene: Scene) -> None:
    scene.raises = [KafkaWentBack("H is above the end")]
    deepest = OtherCluster("topic x was deleted and created again")
    scene.stands = lambda: [deepest]
    scene.start()
    scene.until("stopped: OtherCluster: topic x was deleted and created again")
    assert scene.worker.ready()[0] is False
    assert scene.members[0].left
    assert scene.database.closed == 1, "the slot is free for the operator"
    scene.stands = fails(NO_ANSWER[0])
    asked = scene.asked
    until(lambda: scene.asked > asked + 2, "it goes on asking")
    scene.until("stopped: OtherCluster")

    scene.stands = list
    assert scene.idle.wait(10), "it goes on by itself"
    assert len(scene.members) == 2
    scene.until("working")


def test_another_reason_takes_the_place_of_the_first(scene: Scene) -> None:
    scene.raises = [OtherCluster("the topic")]
    scene.stands = lambda: [OtherCluster("the topic")]
    scene.start()
    scene.until("stopped: OtherCluster")
    scene.stands = lambda: [PositionMissing("lane 0"), PositionMissing("lane 1")]
    scene.until("stopped: PositionMissing: lane 0")


def test_a_brake_ends_with_a_restart_only(scene: Scene) -> None:
    scene.raises = [Brake("too many")]
    scene.start()
    scene.until("stopped: Brake")
    assert not scene.idle.wait(0.2)
    assert scene.asked == 0


def test_a_row_that_kafka_refuses_needs_no_other_proof(scene: Scene) -> None:
    stuck = ContentStuck("too large", "id-1")
    scene.raises = [stuck]
    scene.stands = lambda: [stuck]
    scene.start()
    scene.until("stopped: ContentStuck")
    scene.stands = list
    assert scene.idle.wait(10), "the row is gone"


def test_who_is_not_let_in_ends_when_others_are_not_either(scene: Scene) -> None:
    scene.raises = [NotLetIn("SASL"), NotLetIn("SASL")]
    answers: list[Exception] = [KafkaUnavailable("no broker answers"), Refused("SASL: wrong password")]

    def stands() -> Sequence[Stop]:
        raise answers.pop(0)

    scene.stands = stands
    scene.start()
    until(lambda: scene.ended, "it ends", seconds=10)
    assert isinstance(scene.ended[0], Refused)
    assert scene.polls == 2


def test_a_fenced_worker_whose_slot_is_its_own_goes_on_with_new_clients(scene: Scene) -> None:
    scene.raises = [Fenced("FENCED_INSTANCE_ID")]
    scene.start()
    assert scene.idle.wait(10), "it goes on"
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
    until(lambda: scene.ended, "it ends", seconds=10)
    assert isinstance(scene.ended[0], SlotLost)
    assert len(scene.members) == 1, "the one who has the slot is not disturbed"


def test_a_worker_that_is_fenced_all_the_time_says_who_it_may_be_and_ends(scene: Scene) -> None:
    scene.raises = [Fenced("FENCED_INSTANCE_ID")] * 20
    scene.start()
    until(lambda: scene.ended, "it ends", seconds=10)
    assert isinstance(scene.ended[0], Exit)
    assert isinstance(scene.ended[0], TooManyRecoveries)
    assert "may have the same name in group scene" in str(scene.ended[0])


def test_clients_that_get_no_answer_for_long_are_replaced(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "CLIENTS_SECONDS", 0.0)
    scene.raises = [KafkaUnavailable("_UNKNOWN_PARTITION")]
    scene.start()
    assert scene.idle.wait(10), "it goes on"
    assert len(scene.members) == 2


def test_what_is_not_proven_does_not_count_towards_too_many_recoveries(scene: Scene) -> None:
    scene.raises = [Unproven("the client says so")] * 50
    scene.start()
    assert scene.idle.wait(10), "it goes on"


def test_what_led_to_too_many_recoveries_is_told_not_only_the_last_of_them(scene: Scene) -> None:
    causes = ["delivery: INVALID_TIMESTAMP", *["send_offsets: the transaction failed"] * 25]
    scene.raises = [KafkaInDoubt(cause) for cause in causes]
    scene.start()
    until(lambda: scene.ended, "it ends", seconds=10)
    assert isinstance(scene.ended[0], TooManyRecoveries)
    assert "1 times: delivery: INVALID_TIMESTAMP" in str(scene.ended[0])
    assert "20 times: send_offsets" in str(scene.ended[0])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the log says of waits, which are long at once."""
    lines: list[str] = []
    monkeypatch.setattr(waits, "TOLD_SECONDS", 0.0)
    log = SimpleNamespace(warning=lambda event, detail: lines.append(f"{event}: {detail}"))
    monkeypatch.setattr(waits, "log", log)
    return lines


def test_a_recovery_that_takes_long_says_for_what_it_waits_and_until_when(scene: Scene, said: list[str]) -> None:
    scene.may_renew.clear()
    scene.start()
    scene.until("recovering; it has been waiting 0 s for the servers")
    assert re.search(r"until \d\d:\d\d:\d\d UTC at the latest", scene.worker.ready()[1])
    until(lambda: said, "the log says it too", seconds=10)
    scene.may_renew.set()
    scene.until("working")
    assert "for the servers" not in scene.worker.ready()[1]
    assert len([line for line in said if "for the servers" in line]) == 1


def test_who_waits_for_a_share_says_until_when(scene: Scene, said: list[str]) -> None:
    scene.assigned = False
    scene.start()
    scene.until("given this worker a share yet; it has been waiting 0 s for its group")
    until(lambda: said, "the log says it too", seconds=10)
    polls = scene.polls
    until(lambda: scene.polls > polls + 20, "it looks again", seconds=10)
    scene.assigned = True
    scene.until("working")
    assert "for its group" not in scene.worker.ready()[1]
    assert len([line for line in said if "for its group" in line]) == 1


def test_a_recovery_says_which_server_is_silent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.may_renew.clear()
    scene.start()
    scene.until("recovering")
    monkeypatch.setattr(Seeing, "silence", lambda _: "Kafka has not answered for 11 s")
    assert scene.worker.ready()[1].startswith("recovering; Kafka has not answered for 11 s")
    monkeypatch.undo()
    scene.may_renew.set()
