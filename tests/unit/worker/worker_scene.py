"""A worker without servers, for its unit tests: its Kafka and database do what a test wants."""

import re
import threading
from collections.abc import Callable, Sequence
from math import inf
from types import SimpleNamespace
from typing import Any, cast

from shared.errors import SlotLost, Stop
from shared.protocol.ports import NOTHING, Polled
from shared.testing import SECONDS_MAX, until
from shared.worker.paused import Paused
from shared.worker.worker import Worker
from tests.faults import trail
from tests.faults.stage import StageSettings


class Member:
    """A Kafka port that owns nothing; its polls raise what a test says."""

    def __init__(self, scene: "Scene") -> None:
        self._scene = scene
        self.closed = self.left = False

    unreadable = ""

    @property
    def assigned(self) -> bool:
        """Return whether the group has assigned it a share."""
        return self._scene.assigned

    def poll(self, _records: int, _seconds: float) -> Polled:
        """Raise the next error, or return nothing."""
        self._scene.polls += 1
        if self._scene.raises:
            raise self._scene.raises.pop(0)
        self._scene.idle.set()
        return Polled((), {}, NOTHING if self._scene.polls == 1 else None, "member")

    def committed(self, _inputs: object, _lanes: object) -> dict[Any, Any]:
        """Return no offsets."""
        return {}

    def renew(self) -> None:
        """Replace the producer."""
        assert self._scene.may_renew.wait(SECONDS_MAX)

    def read_from(self, _positions: object, _lanes: object) -> None:
        """Fetch nothing."""

    def pause(self, _inputs: object) -> None:
        """Pause nothing."""

    end_waits_if = resume = begin = produce = send_offsets = commit = confirm = beginning = pause

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
        """Return no record at which processes ended."""
        return {}

    attempts = stuck

    def paused(self) -> frozenset[str]:
        """Return no topic."""
        return frozenset()

    def __init__(self) -> None:
        self.lost = False
        self.closed = 0

    def settle_seconds(self) -> float:
        """Return no wait."""
        return 0

    def take_slot(self) -> bool:
        """Take slot 0."""
        return True

    def hold_slot(self) -> None:
        """Raise `SlotLost` if it is lost."""
        if self.lost:
            raise SlotLost

    def positions(self, _inputs: object) -> dict[Any, Any]:
        """Return no positions."""
        return {}

    claims = waiting = positions

    def unpublished(self, _lanes: object) -> bool:
        """Return false."""
        return False

    def due_seconds(self, _now: float) -> float:
        """Return that nothing is scheduled."""
        return inf

    def close(self) -> None:
        """End the session."""
        self.closed += 1


class Idle:
    """Housekeeping with nothing to keep."""

    def start(self) -> None:
        """Do nothing."""

    stop = start


class Listening(Idle):
    """A wake-up that listens, or not, and hears what a test says."""

    def __init__(self) -> None:
        self.woken = False
        self.listening = True

    def listens(self) -> bool:
        """Return whether it listens."""
        return self.listening

    def own(self, _lanes: object) -> None:
        """Do nothing."""


class Seeing(Idle):
    """An observer whose Kafka answers."""

    def silence(self) -> str:
        """Return no server."""
        return ""

    held_back = silence
    paused = Paused()

    def answered(self) -> None:
        """Do nothing."""

    def own(self, _inputs: object, _lanes: object) -> None:
        """Do nothing."""


class Scene:
    """A worker without servers, on a thread."""

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
        self.wakeup = Listening()
        self.check: Callable[[], None] = lambda: None
        self.ended: list[BaseException | None] = []
        settings = StageSettings.model_validate(
            {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://nowhere"}
        )
        self.worker = Worker(
            settings=settings,
            service=trail.make("scene").service,
            database=cast("Any", self.database),
            check=self._check,
            look_at_topics=lambda: None,
            stands=self._stands,
            connect=self._connect,
            wakeup=cast("Any", self.wakeup),
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
        """Start the worker."""
        self._thread.start()

    def end(self) -> None:
        """Ask the worker to end, as SIGTERM does."""
        self.may_renew.set()  # a test that failed may have left it waiting
        self.worker._stopping.set()
        self._thread.join(SECONDS_MAX)
        self.worker._watchdog.rest()  # it watches until the process ends, and this one is the tests' own
        assert not self._thread.is_alive()

    def until(self, words: str) -> None:
        """Wait until its health matches the pattern `words`."""
        until(lambda: re.search(words, self.worker.ready()[1]), words)
