"""A worker stops only for what the servers report twice, to others too, and goes on when the reason is gone."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy.exc import OperationalError

from shared.errors import (
    CommandFailed,
    ContentStuck,
    DatabaseUnavailable,
    DatabaseWentBack,
    KafkaUnavailable,
    KafkaWentBack,
    LanesDiffer,
    Misconfigured,
    NotLetIn,
    OtherCluster,
    PositionMissing,
    RecordsLost,
    Stop,
    TooManyDeadLetters,
)
from shared.testing import SECONDS_MAX, until
from tests.unit.worker.worker_scene import Scene

POSITIONS = (DatabaseWentBack, KafkaWentBack, PositionMissing, RecordsLost, OtherCluster, LanesDiffer)
NO_ANSWER: tuple[Exception, ...] = (
    # In the words of librdkafka 2.16, libpq and this library: faults between a request and its answer.
    KafkaUnavailable("Local: Host resolution failure (broker 1)"),
    KafkaUnavailable("Local: Broker transport failure: Connection refused"),
    KafkaUnavailable("Local: Broker transport failure: Disconnected: connection reset by peer"),
    KafkaUnavailable("Local: Timed out"),
    KafkaUnavailable("Local: SSL error: handshake failed"),
    KafkaUnavailable("Local: Authentication failure: broken off"),
    KafkaUnavailable("_UNKNOWN_PARTITION: Local: Unknown partition"),
    KafkaUnavailable("LEADER_NOT_AVAILABLE: the leader did not report its offsets"),
    DatabaseUnavailable("PostgreSQL: the server closed the connection unexpectedly"),
    OperationalError("SELECT", {}, Exception("no connection")),
    CommandFailed("Kafka did not answer within 27 s: committed offsets"),
    Misconfigured("Kafka has no topic order.events"),
)


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
    assert scene.idle.wait(SECONDS_MAX), "it goes on"
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
    assert scene.idle.wait(SECONDS_MAX), "it goes on"


def test_what_the_servers_say_is_what_it_stops_for_and_goes_on_from(scene: Scene) -> None:
    scene.raises = [KafkaWentBack("the next offset is above the end")]
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
    assert scene.idle.wait(SECONDS_MAX), "it goes on by itself"
    assert len(scene.members) == 2
    scene.until("working")


def test_another_reason_takes_the_place_of_the_first(scene: Scene) -> None:
    scene.raises = [OtherCluster("the topic")]
    scene.stands = lambda: [OtherCluster("the topic")]
    scene.start()
    scene.until("stopped: OtherCluster")
    scene.stands = lambda: [PositionMissing("lane 0"), PositionMissing("lane 1")]
    scene.until("stopped: PositionMissing: lane 0")


def test_too_many_dead_letters_end_with_a_restart_only(scene: Scene) -> None:
    scene.raises = [TooManyDeadLetters("too many")]
    scene.start()
    scene.until("stopped: TooManyDeadLetters")
    assert not scene.idle.wait(0.2)
    assert scene.asked == 0


def test_a_row_that_kafka_refuses_needs_no_other_proof(scene: Scene) -> None:
    stuck = ContentStuck("too large", "id-1")
    scene.raises = [stuck]
    scene.stands = lambda: [stuck]
    scene.start()
    scene.until("stopped: ContentStuck")
    scene.stands = list
    assert scene.idle.wait(SECONDS_MAX), "the row is gone"


def test_who_is_not_let_in_ends_when_others_are_not_either(scene: Scene) -> None:
    scene.raises = [NotLetIn("SASL"), NotLetIn("SASL")]
    answers: list[Exception] = [KafkaUnavailable("no broker answers"), Misconfigured("SASL: wrong password")]

    def stands() -> Sequence[Stop]:
        raise answers.pop(0)

    scene.stands = stands
    scene.start()
    until(lambda: scene.ended, "it ends")
    assert isinstance(scene.ended[0], Misconfigured)
    assert scene.polls == 2
