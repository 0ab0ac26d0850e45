"""Records and rows still in flight, and the wait until there are none."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from confluent_kafka import KafkaException

from dev.balance.databases import Databases
from dev.balance.others import consumed_topics
from dev.balance.queries import LANES, OPEN_CALLS, OPEN_ORDERS, POSITIONS
from dev.balance.topics import End, Partition, Topics

POLL_SECONDS = 0.25
OFFSETS_TOPIC = "__consumer_offsets"


@dataclass(frozen=True)
class Lane:
    """A lane of a service's outbox, as Postgres and Kafka have it."""

    service: str
    number: int
    position: int
    claim_id: str
    committed: tuple[int, str]
    """The published position, and the claim that it was committed with."""
    rows: int
    claimed_rows: int

    @property
    def published(self) -> bool:
        """Whether Kafka has what the claim names."""
        return (self.position, self.claim_id) == self.committed

    @property
    def unpublished_rows(self) -> int:
        return self.rows - (self.claimed_rows if self.published else 0)

    def __str__(self) -> str:
        offset, claim_id = self.committed
        return (
            f"{self.service}.outbox[{self.number}] claim {self.position} {self.claim_id}, Kafka has {offset} {claim_id}"
        )


@dataclass(frozen=True)
class Pending:
    """What is still in flight."""

    open_orders: int
    ends: dict[Partition, End]
    lags: dict[tuple[str, Partition], int]
    """By service and input, where it is not 0."""
    lanes: tuple[Lane, ...]
    calls: int = 0
    """Calls to third parties that are not finished."""

    @property
    def lag(self) -> int:
        return sum(map(abs, self.lags.values()))

    @property
    def unpublished(self) -> int:
        return sum(lane.unpublished_rows for lane in self.lanes)

    @property
    def open_transactions(self) -> list[Partition]:
        return [partition for partition, end in self.ends.items() if end.stable != end.high]

    @property
    def nothing(self) -> bool:
        waits = self.open_orders or self.lags or self.open_transactions or self.unpublished or self.calls
        return not waits and all(lane.published for lane in self.lanes)

    def __str__(self) -> str:
        return (
            f"{self.open_orders:,} orders open, {self.lag:,} records to handle, {self.unpublished:,} events to "
            f"publish, {self.calls:,} calls to finish, "
            f"{len(self.open_transactions)} open transactions"
        )


def look(databases: Databases, topics: Topics) -> Pending:
    """Return what is in flight. Kafka's ends are read first, so a record that comes later is seen as pending."""
    consumed = {service: consumed_topics(service, databases) for service in databases.services}
    own = [f"{service}.{what}" for service in databases.services for what in ("events", "outbox")]
    every = dict.fromkeys([*own, *(topic for names in consumed.values() for topic in names), OFFSETS_TOPIC])
    ends = topics.ends(topics.partitions(every))
    lags: dict[tuple[str, Partition], int] = {}
    lanes: list[Lane] = []
    for service in databases.services:
        rows = databases.rows(service, POSITIONS)
        positions = {(topic, partition): next_offset for topic, partition, next_offset in rows}
        for partition, end in ends.items():
            if partition[0] in consumed[service] and end.stable != positions.get(partition, 0):
                lags[service, partition] = end.stable - positions.get(partition, 0)
        lane_topic = topics.partitions([f"{service}.outbox"])
        committed = topics.committed(service, lane_topic) if lane_topic else {}
        for number, position, claim_id, count, claimed in databases.rows(service, LANES):
            p = committed.get((f"{service}.outbox", number), (0, ""))
            lanes.append(Lane(service, number, position, claim_id, p, count, claimed))
    calls = sum(databases.number(service, OPEN_CALLS) for service in databases.services)
    return Pending(databases.number("order", OPEN_ORDERS), ends, lags, tuple(lanes), calls)


def wait(look_now: Callable[[], Pending], seconds: float, report: Callable[[str], None]) -> bool:
    """Wait until nothing is in flight, `seconds` at most; return whether that was reached.

    A server that cannot be reached meanwhile is waited for like anything else.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            pending = look_now()
        except (psycopg.OperationalError, KafkaException) as error:
            report(f"waiting for the servers: {str(error).splitlines()[0]}")
        else:
            if pending.nothing:
                return True
            report(str(pending))
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
