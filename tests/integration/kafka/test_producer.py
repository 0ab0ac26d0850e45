"""The producer against a real broker, beyond tests/contract: its records and its doubts."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from dev.servers import Servers
from dev.servers.places import free_port
from shared.errors import ContentRefused, KafkaInDoubt, KafkaUnavailable, Misconfigured
from shared.kafka import producer
from shared.kafka.client import KafkaClient
from shared.kafka.producer import TransactionalProducer
from shared.kafka.topics import ENVELOPE_BYTES
from shared.protocol.ports import KEY_BYTES_MAX, Committed, OutboxRow
from shared.settings import Settings
from shared.testing import until
from shared.trace_context import BAGGAGE_BYTES_MAX, TraceContext
from tests.faults import record_size, trail
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Wire, api

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


UNKNOWN_TOPIC = KafkaError.UNKNOWN_TOPIC_OR_PART.to_bytes(2)

PATIENT_MS = 30_000
"""A commit that takes a sixth of the transaction timeout is under suspicion: on a busy machine, of any test's 5 s."""


def patient(stage: Stage) -> Settings:
    return stage.settings.model_copy(update={"transaction_timeout_ms": PATIENT_MS})


@contextmanager
def client(stage: Stage, settings: Settings, slot: int = 0) -> Iterator[KafkaClient]:
    """Both halves of the port, joined to the group and with a producer."""
    made: KafkaClient = trail.container(stage.kit, settings).kafka(slot=slot)

    def ready() -> bool:
        with suppress(KafkaUnavailable):  # the topics are new, and their leaders may not know it yet
            made.renew()
            return True
        return False

    try:
        until(ready, "a producer for new topics")
        yield made
    finally:
        made.close()


@pytest.fixture
def kafka(stage: Stage) -> Iterator[KafkaClient]:
    """The client of slot 0."""
    with client(stage, patient(stage)) as made:
        yield made


def group_metadata(kafka: KafkaClient) -> object:
    """The group metadata, once the member owns something."""
    shares: list[object] = []
    found: list[object] = []

    def member() -> bool:
        polled = kafka.poll(1, 0.05)
        shares.extend(filter(None, [polled.assigned]))
        found.append(polled.group_metadata)
        return bool(shares) and found[-1] is not None

    until(member, "it owns something")
    return found[-1]


def rows(stage: Stage, *words: str, topic: str | None = None) -> list[OutboxRow]:
    """Return rows to publish."""
    time_text = "2026-01-01T00:00:00.000000Z"
    return [
        OutboxRow(topic or stage.kit.told.topic, "key", f"id-{w[:9]}", "Told", 3, time_text, w.encode(), PARENT)
        for w in words
    ]


def published(stage: Stage) -> list[str]:
    """Return the records that a read_committed reader sees."""
    return [record.data.decode() for record in stage.read(stage.kit.told.topic)]


def test_a_row_becomes_a_cloud_event(stage: Stage, kafka: KafkaClient) -> None:
    kafka.begin()
    kafka.produce(rows(stage, "one"))
    kafka.commit()
    assert [record[3:7] for record in stage.read(stage.kit.told.topic)] == [("key", "id-one", "Told.v3", b"one")]
    assert [record.headers for record in stage.read(stage.kit.told.topic)] == [
        {
            "ce_specversion": "1.0",
            "ce_source": stage.name,
            "content-type": "application/json",
            "ce_id": "id-one",
            "ce_type": "Told.v3",
            "ce_time": "2026-01-01T00:00:00.000000Z",
            "traceparent": PARENT,
        }
    ]


def test_what_a_caller_has_said_beside_its_trace_is_sent_where_the_event_leaves_room(
    stage: Stage, kafka: KafkaClient
) -> None:
    """A topic has room for the largest event, its key and its own headers: 10,000 bytes more, and no more."""
    largest = stage.settings.event_bytes_max
    record_size.limit(stage.bootstrap, stage.kit.told.topic, largest + ENVELOPE_BYTES)
    baggage = "a=" + "x" * (BAGGAGE_BYTES_MAX - 2)
    context = TraceContext(PARENT, "v=1", baggage).text or ""
    sizes = (1, largest - len(context), largest - len(context) + 1, largest)
    for size in sizes:
        (row,) = rows(stage, "x" * size)
        kafka.begin()
        kafka.produce([row._replace(key="k" * KEY_BYTES_MAX, traceparent=context)])
        kafka.commit()

    found = stage.read(stage.kit.told.topic)
    assert [len(record.data) for record in found] == list(sizes)
    assert [record.headers["traceparent"] for record in found] == [PARENT] * 4
    assert [record.headers.get("tracestate") for record in found] == ["v=1", "v=1", None, None]
    assert [record.headers.get("baggage") for record in found] == [baggage, baggage, None, None]


def test_a_worker_finds_the_row_that_kafka_refuses_publishes_all_before_it_and_stops(stage: Stage) -> None:
    record_size.limit(stage.bootstrap, stage.kit.told.topic, 2_000)
    key = stage.keys[0]
    for wish in ("", "", "publish 5000", "", ""):
        stage.ask([key], wish=wish)
    stage.request(stage.keys[2:])
    worker = stage.worker(metrics_port=free_port())
    stage.until(lambda: "stopped: ContentStuck" in worker.ready()[1], "it stops")
    reason = worker.ready()[1]
    refused = f"{stage.name}:{stage.kit.asked.topic}-0.0.2.Told.0"
    assert f"Kafka refuses Told {refused} for {stage.kit.told.topic}" in reason
    assert f"outbox show {refused}" in reason
    assert f"outbox set-aside {refused}" in reason
    steps = [record for record in stage.read(stage.kit.told.topic) if record.key == key]
    assert len(steps) == 2
    stage.stop()

    record_size.limit(stage.bootstrap, stage.kit.told.topic, 1_000_000)
    stage.worker()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_a_topic_that_is_not_there_is_a_doubt_within_its_budget(stage: Stage) -> None:
    with client(stage, stage.settings) as kafka:
        kafka.begin()
        kafka.produce(rows(stage, "one", topic=f"{stage.name}.nowhere"))
        began = time.monotonic()
        with pytest.raises(KafkaInDoubt):
            kafka.commit()
        assert time.monotonic() - began < stage.settings.transaction_timeout_ms / 1_000 + 5


def test_offsets_that_are_sent_after_a_row_was_refused_are_refused_for_its_reason(
    stage: Stage, kafka: KafkaClient
) -> None:
    record_size.limit(stage.bootstrap, stage.kit.told.topic, 2_000)
    member = group_metadata(kafka)
    kafka.begin()
    kafka.produce(rows(stage, "one" * 1_000))
    until(lambda: failed(kafka), "the row is refused")
    with pytest.raises(ContentRefused, match="MSG_SIZE_TOO_LARGE"):
        kafka.send_offsets({}, {0: Committed(1, "claim")}, member)
    kafka.renew()
    assert kafka.committed((), (0,)) == {}


def failed(kafka: KafkaClient) -> bool:
    """Return whether the client knows that its transaction has failed."""
    producer = kafka._halves[0]._producer
    assert producer is not None
    try:
        producer.begin_transaction()
    except KafkaException as error:
        return bool(error.args[0].code() != KafkaError._STATE)
    raise AssertionError("no transaction was begun")


def test_a_commit_that_took_suspiciously_long_is_a_doubt(breakable_servers: Servers, tmp_path: Path) -> None:
    """Its request may still be on its way, and could end a later transaction (KIP-890)."""
    servers = breakable_servers
    with (
        Stage(servers, tmp_path, transaction_timeout_ms=9_000) as stage,
        client(stage, stage.settings) as kafka,
    ):
        member = group_metadata(kafka)
        kafka.begin()
        kafka.produce(rows(stage, "one"))
        kafka.send_offsets({}, {0: Committed(1, "claim")}, member)
        servers.kafka.freeze()
        # Longer than half of the socket timeout of 3 s, and shorter than the broker's session of 2 s: one that was
        # given up meanwhile may forget how its transactions ended.
        thaw = threading.Timer(1.7, servers.kafka.thaw)
        thaw.start()
        with pytest.raises(KafkaInDoubt, match="committed, but under suspicion"):
            kafka.commit()
        thaw.join()
        kafka.renew()
        assert kafka.committed((), (0,)) == {0: Committed(1, "claim")}
        assert published(stage) == ["one"]


def publish_one(stage: Stage, kafka: KafkaClient) -> None:
    """Publish one row, and commit."""
    kafka.begin()
    kafka.produce(rows(stage, "one"))
    kafka.commit()


def test_a_commit_is_doubted_when_the_connection_is_lost_after_it(servers: Servers, tmp_path: Path) -> None:
    """A broker that dies right after its answer may forget what it has answered (KAFKA-20734)."""
    with Stage(servers, tmp_path) as stage:
        with Wire.before(servers) as wire:
            settings = patient(stage).model_copy(update={"kafka_bootstrap_servers": wire.address("kafka")})
            kafka: KafkaClient = trail.container(stage.kit, settings).kafka(slot=0)
            kafka.renew()
            publish_one(stage, kafka)
            kafka.confirm()
        with pytest.raises(KafkaInDoubt, match="in doubt since the last commit: FAIL"):
            until(kafka.confirm, "it is doubted")
        kafka.close()


@pytest.mark.parametrize("before", [[], ["of another producer"]], ids=["of a new topic", "that has records"])
def test_rows_that_a_new_leader_refuses_are_not_overtaken(stage: Stage, servers: Servers, before: list[str]) -> None:
    """A leader takes any first sequence number of a producer that it does not know (KAFKA-15591): if a second batch
    overtook the first, the client would count both as acknowledged. Kafka 4.5 refuses that only on a new partition.
    """
    words = [f"{number} {'x' * 300_000}" for number in range(12)]  # three fill a batch
    settings = patient(stage)
    with client(stage, settings) as other:
        other.begin()
        other.produce(rows(stage, *before))
        other.commit()
    with Wire.before(servers) as wire:
        through = settings.model_copy(update={"kafka_bootstrap_servers": wire.address("kafka")})
        with client(stage, through, slot=1) as kafka:
            refused = wire.on(api("Produce"), Deed.REFUSE)
            kafka.begin()
            kafka.produce(rows(stage, *words))
            kafka.commit()
            assert UNKNOWN_TOPIC in refused.wait_answer()
    assert [record[:3] for record in published(stage)] == [word[:3] for word in (*before, *words)]


def test_rows_that_were_overtaken_nevertheless_are_not_committed(
    stage: Stage, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a leader moves, a batch can be overtaken although one request at a time is on its way."""
    monkeypatch.setitem(producer.IN_ORDER, "max.in.flight.requests.per.connection", 5)
    with Wire.before(servers) as wire:
        settings = patient(stage).model_copy(update={"kafka_bootstrap_servers": wire.address("kafka")})
        with client(stage, settings) as kafka:
            refused = wire.on(api("Produce"), Deed.REFUSE)
            kafka.begin()
            kafka.produce(rows(stage, *(f"{number} {'x' * 300_000}" for number in range(12))))
            with pytest.raises(KafkaInDoubt, match="acknowledged without an offset"):
                kafka.commit()
            assert UNKNOWN_TOPIC in refused.wait_answer()
    assert published(stage) == []


def test_a_broker_that_was_never_reached_puts_no_commit_in_doubt(stage: Stage) -> None:
    """The client retries one of three that is down. Nothing was sent to it."""
    settings = patient(stage).model_copy(
        update={"kafka_bootstrap_servers": f"127.0.0.1:{free_port()},{stage.settings.kafka_bootstrap_servers}"}
    )
    made: KafkaClient = trail.container(stage.kit, settings).kafka(slot=0)
    for _ in range(5):
        made.renew()
        publish_one(stage, made)
        made.confirm()
    made.close()
    assert published(stage) == ["one"] * 5


class Ahead(Producer):
    """A producer whose clock is two hours ahead; brokers accept one hour."""

    def produce(self, *arguments: Any, **named: Any) -> None:
        """Produce with the time of a wrong clock."""
        named["timestamp"] = int((time.time() + 7_200) * 1_000)
        super().produce(*arguments, **named)


def test_a_broker_that_refuses_our_clock_is_named_and_no_restart_is_asked_for(stage: Stage) -> None:
    """A restart would have the same clock. Of many rows the client reports only that some are refused."""
    producer = TransactionalProducer(patient(stage), stage.kit.service, 0, make=Ahead)
    for words, meaning, told in (
        (("a", "b"), ContentRefused, "INVALID_RECORD"),
        (("a",), Misconfigured, "INVALID_TIMESTAMP.*clock"),
    ):
        producer.renew()
        producer.begin()
        producer.produce(rows(stage, *words))
        with pytest.raises(meaning, match=told):
            producer.commit()
    producer.close()
