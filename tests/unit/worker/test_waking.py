"""A wake-up and a stop end a wait; a wake-up does so once."""

from collections.abc import Callable
from typing import Any, cast
from unittest import mock

import pytest

from shared.errors import KafkaUnavailable
from shared.protocol.ports import Polled
from shared.worker.stopping import Stopping
from shared.worker.waking import WakingKafka
from tests.unit.worker.worker_scene import Listening

QUIET = Polled((), {}, None, "member")


class Scene:
    """A client whose poll, while it waits, does what a test says."""

    def __init__(self) -> None:
        self.wakeup = Listening()
        self.stopping = Stopping()
        self.meanwhile: Callable[[], object] = lambda: None
        self.ends: Callable[[], bool] = lambda: False
        client = mock.Mock(poll=self._poll, end_waits_if=lambda condition: setattr(self, "ends", condition))
        self.kafka = WakingKafka(client, cast("Any", self.wakeup), self.stopping)

    def _poll(self, _records: int, _seconds: float) -> Polled:
        self.meanwhile()
        return QUIET


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_wake_up_ends_a_wait_once(scene: Scene) -> None:
    assert not scene.ends()
    scene.wakeup.woken = True
    assert scene.ends()
    scene.kafka.poll(10, 1.0)
    assert scene.kafka.woken
    assert not scene.ends()
    scene.kafka.poll(10, 1.0)
    assert not scene.kafka.woken


def test_a_wake_up_during_a_poll_that_fails_ends_the_next_one(scene: Scene) -> None:
    scene.wakeup.woken = True
    scene.meanwhile = mock.Mock(side_effect=KafkaUnavailable("poll"))
    with pytest.raises(KafkaUnavailable):
        scene.kafka.poll(10, 1.0)
    assert scene.ends()


def test_a_wake_up_between_two_polls_is_not_lost(scene: Scene) -> None:
    scene.kafka.poll(10, 1.0)
    scene.wakeup.woken = True
    assert scene.ends()


def test_a_stop_ends_every_wait(scene: Scene) -> None:
    scene.stopping.set()
    scene.kafka.poll(10, 1.0)
    assert scene.ends()


def test_a_poll_that_is_not_to_wait_shows_that_there_is_more(scene: Scene) -> None:
    scene.kafka.poll(10, 0)
    assert scene.kafka.had_more
    scene.kafka.poll(10, 0.1)
    assert not scene.kafka.had_more
