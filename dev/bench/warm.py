"""Gives a broker the work after which its JVM has compiled what a transaction needs.

A production broker has run for weeks. A new one interprets and compiles for minutes, at several times the CPU for each
transaction, and a benchmark of it would mostly measure that (docs/benchmarks.md has the figures).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from dev.servers import Echo, Servers

TOPICS = INPUT, OUTPUT = "warm.input", "warm.output"
PARTITIONS = 4
PRODUCERS = 3
"""Transactions at a time, as three services have."""
ROWS = 3
VALUE = bytes(250)
HEADERS: Any = [(f"name-{number}", bytes(20)) for number in range(7)]
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.1


def warm(servers: Servers, report: Echo, seconds: float) -> None:
    """Commit transactions as workers do, with rows and offsets, while consumers read them; leave nothing behind."""
    report(f"warming the broker for {seconds:.0f} s ...")
    bootstrap = servers.kafka.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in TOPICS]).values():
        future.result(ANSWER_SECONDS)
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        for number in range(2):
            stack.enter_context(_reading(bootstrap, f"warm-reader-{number}"))
        threads = [threading.Thread(target=_commit, args=(bootstrap, number, end)) for number in range(PRODUCERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for future in admin.delete_topics(list(TOPICS)).values():
        future.result(ANSWER_SECONDS)


def _commit(bootstrap: str, number: int, end: float) -> None:
    member = _member(bootstrap, f"warm-{number}", INPUT)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": f"warm-{number}",
            "retry.backoff.ms": 5,
            "linger.ms": 0,
        }
    )
    producer.init_transactions(ANSWER_SECONDS)
    offset = 0
    while time.monotonic() < end:
        member.poll(0)
        offset += 1
        producer.begin_transaction()
        for row in range(ROWS):
            producer.produce(OUTPUT, VALUE, f"{offset}-{row}", headers=HEADERS)
        offsets = [TopicPartition(INPUT, number, offset)]
        producer.send_offsets_to_transaction(offsets, member.consumer_group_metadata(), ANSWER_SECONDS)
        producer.commit_transaction(ANSWER_SECONDS)
    member.close()


@contextmanager
def _reading(bootstrap: str, group: str) -> Iterator[None]:
    stop = threading.Event()

    def read() -> None:
        member = _member(bootstrap, group, OUTPUT)
        while not stop.is_set():
            member.poll(POLL_SECONDS)
        member.close()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _member(bootstrap: str, group: str, topic: str) -> Consumer:
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
    while not member.assignment():
        member.poll(POLL_SECONDS)
    return member
