"""Kafka's view of a service, for an operator: its group's members, its committed offsets, its topics' ranges.

Nothing here joins the group. Only `lower` and `grow` change anything; the broker refuses `lower` while the group has
members.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions

from ..errors import CommandFailed, KafkaUnavailable
from ..kafka import access, topics
from ..kafka.consumer import committed_offsets
from ..protocol.ports import Committed, Input
from ..service import Service
from ..settings import Settings

POLL_SECONDS = 0.2

CLEANUP_SECONDS = 15.0
"""A transaction that times out is ended by the broker's next cleanup: every 10 s, unless the broker is configured
otherwise."""


MOVING = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.NOT_CONTROLLER,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._NOENT,  # "Failed to query partition leaders"
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._RESOLVE,
        KafkaError._ALL_BROKERS_DOWN,
    }
)
"""The coordinator or leader has just moved, or a broker is starting; ask again."""

MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC})

Answer = TypeVar("Answer")


class _Silent(KafkaUnavailable):
    """A leader did not answer."""


class Span(NamedTuple):
    """The range of a partition."""

    low: int
    """Its first offset."""
    stable: int
    """Where read_committed ends: before the first open transaction."""
    high: int
    """Its end."""


class Topic(NamedTuple):
    """A topic as it is now."""

    id: str
    partitions: int


class Member(NamedTuple):
    """A member of the group, and what it owns."""

    name: str
    """Its `group.instance.id`: the service, the slot, and a hash of the subscription."""
    host: str
    inputs: list[Input]
    lanes: list[int]

    def __str__(self) -> str:
        return f"{self.name} at {self.host}"

    @property
    def slot(self) -> int | None:
        """The slot of the worker; None if it is not one of this library."""
        found = re.fullmatch(r".*-(\d{1,9})-[0-9a-f]{8}", self.name)
        return int(found[1]) if found else None


class Group:
    """The consumer group of a service and its topics, seen from outside."""

    def __init__(self, settings: Settings, service: Service) -> None:
        self._settings = settings
        self._service = service
        self._admin = access.admin(settings, service)
        self._reader = Consumer(
            {
                **settings.kafka(),
                "group.id": service.name,  # queried, not joined: nothing is subscribed
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "log_level": 0,  # the calls report failures
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def serve_log(self) -> None:
        """Write what the client has logged; one that lives long would keep it otherwise."""
        while self._admin.poll(0):
            pass

    def cluster_id(self) -> str:
        """Name the cluster."""
        return ask(lambda: access.cluster_id(self._admin))

    def topics(self, names: Collection[str]) -> dict[str, Topic]:
        """Describe topics; those that do not exist are left out."""
        found = ask(lambda: topics.describe(self._admin, self._settings, names)) if names else {}
        return {name: Topic(str(d.topic_id), len(d.partitions)) for name, d in found.items() if d is not None}

    def members(self) -> list[str]:
        """List the group's current members."""
        return sorted(map(str, self.shares()))

    def shares(self) -> list[Member]:
        """List the group's current members with what each owns."""
        name = self._service.name
        members = ask(
            lambda: result(self._admin.describe_consumer_groups([name], request_timeout=topics.ADMIN_SECONDS)[name])
        ).members
        return [self._member(found) for found in members]

    def _member(self, found: Any) -> Member:
        owned = [Input(p.topic, p.partition) for p in (found.assignment.topic_partitions if found.assignment else ())]
        lane_topic = self._service.lane_topic
        return Member(
            found.group_instance_id or found.member_id,
            found.host.lstrip("/"),
            sorted(source for source in owned if source.topic != lane_topic),
            sorted(source.partition for source in owned if source.topic == lane_topic),
        )

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
        """Read committed offsets as a worker does: only while no open transaction might change them."""
        seconds = self._settings.transaction_timeout_ms / 1_000 + CLEANUP_SECONDS
        deadline = time.monotonic() + seconds
        while True:
            try:
                return committed_offsets(self._reader, self._service.lane_topic, inputs, lanes)
            except KafkaUnavailable as error:
                self.members()  # the same coordinator reports a missing right; the consumer only waits
                if time.monotonic() > deadline:
                    raise CommandFailed(f"Kafka did not answer within {seconds:.0f} s: {error}") from error

    def lower(self, positions: Mapping[Input, int]) -> None:
        """Set the committed offsets of `positions`, so that none is above the next offset."""
        offsets = [TopicPartition(source.topic, source.partition, offset) for source, offset in positions.items()]
        if not offsets:
            return
        name = self._service.name
        answers = ask(
            lambda: result(
                self._admin.alter_consumer_group_offsets(
                    [ConsumerGroupTopicPartitions(name, offsets)], request_timeout=topics.ADMIN_SECONDS
                )[name]
            )
        ).topic_partitions
        for answer in answers or ():
            if answer.error is not None:
                raise CommandFailed(
                    f"Kafka did not lower the committed offset of {answer.topic}[{answer.partition}]: {answer.error}"
                )

    def spans(self, inputs: Collection[Input]) -> dict[Input, Span]:
        """Return the partitions' ranges; those that do not exist are left out."""
        committed, all_of_it = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        lows = self._offsets(inputs, earliest, all_of_it)
        stable = self._offsets(lows, latest, committed)
        highs = self._offsets(lows, latest, all_of_it)
        return {i: Span(lows[i], stable[i], highs[i]) for i in lows if i in stable and i in highs}

    def at_time(self, inputs: Collection[Input], milliseconds: int) -> dict[Input, int]:
        """Return each partition's first offset that is not older; -1 if all are older."""
        return self._offsets(inputs, OffsetSpec.for_timestamp(milliseconds), IsolationLevel.READ_UNCOMMITTED)

    def _offsets(self, inputs: Collection[Input], spec: OffsetSpec, level: IsolationLevel) -> dict[Input, int]:
        specs = {TopicPartition(*source): spec for source in inputs}
        if not specs:
            return {}

        def once() -> dict[Input, int]:
            found = {}
            answers = self._admin.list_offsets(specs, isolation_level=level, request_timeout=topics.ADMIN_SECONDS)
            for p, future in answers.items():
                try:
                    found[Input(p.topic, p.partition)] = int(result(future).offset)
                except KafkaUnavailable as error:
                    if _code(error.__cause__) not in MISSING:
                        raise
            # When a leader does not answer, the client returns this, not an error.
            if silent := [str(source) for source, offset in found.items() if offset == OFFSET_INVALID]:
                raise _Silent(f"{', '.join(silent)}: the leader did not report its offsets")
            return found

        return ask(once)

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to `topic`; return when the brokers know them."""
        created = self._admin.create_partitions(
            [NewPartitions(topic, partitions)], request_timeout=topics.ADMIN_SECONDS
        )
        result(created[topic])
        wait_until(lambda: self.topics([topic])[topic].partitions >= partitions, topics.ADMIN_SECONDS)


def ask(question: Callable[[], Answer]) -> Answer:
    """Ask until there is an answer: a coordinator that has just moved is briefly unavailable."""
    deadline = time.monotonic() + topics.ADMIN_SECONDS
    while True:
        try:
            return question()
        except KafkaUnavailable as error:
            if not (isinstance(error, _Silent) or _code(error.__cause__) in MOVING) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def result(future: Any) -> Any:
    """Return an answer. Raises `KafkaUnavailable`, or `Misconfigured` for a missing right."""
    try:
        return future.result(topics.ADMIN_SECONDS + 5)
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        unavailable = KafkaUnavailable(f"Kafka: {reason.name()}: {reason.str()}")
        raise access.not_permitted(reason) or unavailable from error


def _code(error: BaseException | None) -> int | None:
    return int(error.args[0].code()) if isinstance(error, KafkaException) else None


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until `condition` holds; False if not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
