"""A renewed producer waits for records and offsets in an open transaction, on a real broker."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from shared.errors import KafkaUnavailable
from shared.kafka.ended_transactions import see_ended
from shared.telemetry.waits import MAIN_LOOP
from shared.testing import SECONDS_MAX, until
from tests.faults.stage import Stage


@pytest.fixture
def other(stage: Stage) -> Iterator[Producer]:
    """Another producer in a transaction; a broker that forgets to end it leaves the same (KAFKA-20734)."""
    made = Producer({"bootstrap.servers": stage.settings.kafka_bootstrap_servers, "transactional.id": stage.name})
    made.init_transactions(SECONDS_MAX)
    made.begin_transaction()
    yield made
    made.purge()


def test_records_that_are_in_a_transaction_are_waited_for(stage: Stage, other: Producer) -> None:
    see_ended(stage.settings, stage.kit.service)
    other.produce(stage.kit.told.topic, b"open", partition=1)
    assert other.flush(SECONDS_MAX) == 0

    awaited = f"for transactions to end that are open in {stage.kit.told.topic}[1], until "
    with ThreadPoolExecutor() as beside:
        waiting = beside.submit(until, lambda: awaited in MAIN_LOOP.words(), "it reports what it waits for")
        with pytest.raises(KafkaUnavailable, match=re.escape(f"{stage.kit.told.topic}[1]: a transaction is open")):
            see_ended(stage.settings, stage.kit.service)
        waiting.result()

    other.abort_transaction(SECONDS_MAX)
    see_ended(stage.settings, stage.kit.service)


def test_offsets_that_are_in_a_transaction_are_waited_for_whoever_owns_their_lane(
    stage: Stage, other: Producer
) -> None:
    """Their producer id's next commit would commit them, and what was never published would seem published."""
    nobody = Consumer({"bootstrap.servers": stage.settings.kafka_bootstrap_servers, "group.id": stage.name})
    held = [TopicPartition(stage.kit.service.lane_topic, 1, 7)]
    other.send_offsets_to_transaction(held, nobody.consumer_group_metadata(), SECONDS_MAX)

    with pytest.raises(KafkaUnavailable, match=r"committed offsets.*a transaction is open"):
        see_ended(stage.settings, stage.kit.service)

    other.abort_transaction(SECONDS_MAX)
    see_ended(stage.settings, stage.kit.service)
    nobody.close()
