"""Recoveries are counted, and too many of them end a worker, which says why."""

import pytest

from shared.errors import Exit, Fenced, KafkaInDoubt, NotReleased, TooManyRecoveries, Unproven
from shared.testing import SECONDS_MAX, until
from shared.worker import backoff
from tests.unit.worker.worker_scene import Scene


def test_what_is_not_proven_does_not_count_towards_too_many_recoveries(scene: Scene) -> None:
    scene.raises = [Unproven("the client says so")] * 50
    scene.start()
    assert scene.idle.wait(SECONDS_MAX), "it goes on"


def test_what_led_to_too_many_recoveries_is_told_not_only_the_last_of_them(scene: Scene) -> None:
    causes = ["delivery: INVALID_TIMESTAMP", *["send_offsets: the transaction failed"] * 25]
    scene.raises = [KafkaInDoubt(cause) for cause in causes]
    scene.start()
    until(lambda: scene.ended, "it ends")
    assert isinstance(scene.ended[0], TooManyRecoveries)
    assert "1 times: delivery: INVALID_TIMESTAMP" in str(scene.ended[0])
    assert "20 times: send_offsets" in str(scene.ended[0])


def test_a_worker_whose_predecessor_is_still_a_member_waits_until_the_group_lets_it_in(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "PAUSE_MAX", 0.01)
    scene.raises = [NotReleased("the group still counts an earlier client")] * 20
    scene.start()
    assert scene.idle.wait(SECONDS_MAX), "it is not ended by a count"
    assert [member.closed for member in scene.members] == [True] * 20 + [False]


def test_a_worker_that_is_fenced_all_the_time_says_who_it_may_be_and_ends(scene: Scene) -> None:
    scene.raises = [Fenced("FENCED_INSTANCE_ID")] * 20
    scene.start()
    until(lambda: scene.ended, "it ends")
    assert isinstance(scene.ended[0], Exit)
    assert isinstance(scene.ended[0], TooManyRecoveries)
    assert "may have the same name in group scene" in str(scene.ended[0])
