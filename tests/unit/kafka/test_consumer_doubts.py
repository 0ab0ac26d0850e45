"""A client's error in place of a record proves nothing, for any code and cause."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from shared.errors import (
    ExactlyOnceError,
    Fenced,
    KafkaWentBack,
    Misconfigured,
    NotLetIn,
    NotReleased,
    RecordsLost,
    Stop,
    Unproven,
)
from shared.kafka import consumer
from shared.kafka.consumer import GroupMember
from shared.protocol.ports import Input
from tests.faults import trail

SERVICE = trail.make("codes").service
CONSUMED = Input(SERVICE.consumed_topics[0], 0)
LANE = Input(SERVICE.lane_topic, 1)

BEHIND = (
    # A transport failure, and how librdkafka 2.16 says it.
    (KafkaError._RESOLVE, "failed to query logical offset: Local: Host resolution failure (broker 1)"),
    (KafkaError._TRANSPORT, "Connect to ipv4#127.0.0.1:9092 failed: Connection refused"),
    (KafkaError._TRANSPORT, "Disconnected: connection reset by peer"),
    (KafkaError._TIMED_OUT, "Local: Timed out"),
    (KafkaError._SSL, "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?"),
    (KafkaError._AUTHENTICATION, "SASL authentication error: broken off"),
    (KafkaError.LEADER_NOT_AVAILABLE, "Broker: Leader not available"),
    (KafkaError._UNKNOWN_PARTITION, "Local: Unknown partition"),
    (KafkaError.UNKNOWN_TOPIC_OR_PART, "Broker: Unknown topic or partition"),
    (KafkaError._ALL_BROKERS_DOWN, "Local: All broker connections are down"),
)
CODES = (
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._LOG_TRUNCATION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_PARTITION,
)
"""Errors after which the client may fetch no more of a partition until given an offset."""


class Client:
    """A consumer that knows only a partition's end, or why it does not."""

    def __init__(self, answer: tuple[int, int] | KafkaError) -> None:
        self._answer = answer

    def get_watermark_offsets(self, _partition: TopicPartition, _seconds: float) -> tuple[int, int]:
        """Return the end, or raise."""
        if isinstance(self._answer, KafkaError):
            raise KafkaException(self._answer)
        return self._answer


def reported(
    code: int, text: str, *, source: Input = CONSUMED, answer: tuple[int, int] | KafkaError
) -> ExactlyOnceError | None:
    """Let the client report a partition's error; return what it is taken for."""
    member = GroupMember.__new__(GroupMember)
    made: Any = member
    made._service, made._reading, made._consumer = SERVICE, {CONSUMED}, Client(answer)
    try:
        member._failed(source, KafkaError(code, text), 7)
    except ExactlyOnceError as error:
        return error
    return None


@pytest.mark.parametrize(("behind", "text"), BEHIND)
@pytest.mark.parametrize("code", CODES)
def test_no_stop_while_no_broker_says_how_far_a_partition_goes(code: int, behind: int, text: str) -> None:
    taken = reported(code, text, answer=KafkaError(behind, text))
    assert isinstance(taken, Unproven)
    assert text in str(taken), "the reason is told"


@pytest.mark.parametrize(("behind", "text"), BEHIND)
@pytest.mark.parametrize("code", CODES)
def test_no_stop_for_a_position_that_the_partition_has(code: int, behind: int, text: str) -> None:
    assert isinstance(reported(code, text, answer=(0, 9)), Unproven)


@pytest.mark.parametrize("code", [KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE])
@pytest.mark.parametrize(("span", "stop"), [((8, 9), RecordsLost), ((0, 6), KafkaWentBack)])
def test_a_position_outside_of_the_partition_is_a_reason_to_ask_again(
    code: int, span: tuple[int, int], stop: type[Stop]
) -> None:
    assert isinstance(reported(code, "Broker: Offset out of range", answer=span), stop)


@pytest.mark.parametrize("code", CODES)
def test_a_lane_is_not_read_so_nothing_about_its_records_matters(code: int) -> None:
    assert reported(code, "whatever", source=LANE, answer=(0, 0)) is None


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (KafkaError._AUTHENTICATION, NotLetIn),
        (KafkaError.FENCED_INSTANCE_ID, Fenced),
        (KafkaError._FATAL, Fenced),
        *((code, Misconfigured) for code in consumer.SET_UP),
    ],
)
def test_what_the_group_says_of_this_worker(code: int, meaning: type[ExactlyOnceError]) -> None:
    taken = reported(code, "words", source=Input("", 0), answer=(0, 0))
    assert type(taken) is meaning
    assert "another process" not in str(taken), "nobody is accused without proof"


def test_a_predecessor_that_the_group_still_counts_is_waited_for_under_kip_848() -> None:
    broker = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
    text = f"Fatal error: {broker}: ConsumerGroupHeartbeat fatal error: {broker}"  # as librdkafka 2.16 reports it
    taken = reported(KafkaError._FATAL, text, source=Input("", 0), answer=(0, 0))
    assert isinstance(taken, NotReleased)
    assert "until its session ends" in str(taken)
