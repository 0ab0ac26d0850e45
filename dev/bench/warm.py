"""Gives a broker the work after which its JVM has compiled what a transaction needs.

A production broker has run for weeks. A new one interprets and compiles for minutes, at several times the CPU for each
transaction, and a benchmark of it would mostly measure that (docs/benchmarks.md has the figures).
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from dev.bench.inventory import BenchError
from dev.servers import Echo, Servers

TOPICS = INPUT, OUTPUT = "warm.input", "warm.output"
PARTITIONS = 4
PRODUCERS, READERS = 3, 2
"""Transactions at a time, as three services have."""
ROWS = 3
VALUE = bytes(250)
HEADERS: Any = [(f"name-{number}", bytes(20)) for number in range(7)]
ANSWER_SECONDS = 10.0
JOIN_SECONDS = 30.0
POLL_SECONDS = 0.1


def warm(servers: Servers, report: Echo, seconds: float) -> None:
    """Commit transactions for `seconds` as workers do, with rows and offsets, while consumers read them. Raises
    `KafkaException`.
    """
    report(f"warming the broker for {seconds:.0f} s ...")
    bootstrap = servers.kafka.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in TOPICS]).values():
        future.result(ANSWER_SECONDS)
    ended = threading.Event()
    with ThreadPoolExecutor(PRODUCERS + READERS) as pool:
        readers = [pool.submit(_read, bootstrap, number, ended) for number in range(READERS)]
        writers = [pool.submit(_commit, bootstrap, number, seconds) for number in range(PRODUCERS)]
        try:
            for writer in writers:
                writer.result()
        finally:
            ended.set()
        for reader in readers:
            reader.result()
    for future in admin.delete_topics(list(TOPICS)).values():
        future.result(ANSWER_SECONDS)


def _commit(bootstrap: str, number: int, seconds: float) -> None:
    """Commit one transaction after the other, at least one."""
    member = _member(bootstrap, f"warm-{number}", INPUT)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": f"warm-{number}", "retry.backoff.ms": 5, "linger.ms": 0}
    )
    producer.init_transactions(ANSWER_SECONDS)
    end, offset = time.monotonic() + seconds, 0
    while offset == 0 or time.monotonic() < end:
        member.poll(0)
        offset += 1
        producer.begin_transaction()
        for row in range(ROWS):
            producer.produce(OUTPUT, VALUE, f"{offset}-{row}", headers=HEADERS)
        offsets = [TopicPartition(INPUT, number, offset)]
        producer.send_offsets_to_transaction(offsets, member.consumer_group_metadata(), ANSWER_SECONDS)
        producer.commit_transaction(ANSWER_SECONDS)
    member.close()


def _read(bootstrap: str, number: int, ended: threading.Event) -> None:
    member = _member(bootstrap, f"warm-reader-{number}", OUTPUT)
    while not ended.is_set():
        member.poll(POLL_SECONDS)
    member.close()


def _member(bootstrap: str, group: str, topic: str) -> Consumer:
    """Return a member of a group that has its share. Raises `BenchError`."""
    member = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
        }
    )
    member.subscribe([topic])
    late = time.monotonic() + JOIN_SECONDS
    while not member.assignment():
        if time.monotonic() > late:
            raise BenchError(f"the group {group} gave its only member no share within {JOIN_SECONDS:.0f} s")
        member.poll(POLL_SECONDS)
    return member
