"""Kafka's contents: records as a reader with `read_committed` sees them, ends, and committed offsets.

It parses headers by itself, so as not to repeat a mistake in the library's envelope. It skips what the malicious
producer has written, by its mark.
"""

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from shared.kafka.consumer import headers as client_headers

ANSWER_SECONDS = 10.0
# A reader that gets nothing for this long before the end will get nothing more.
SILENCE_SECONDS = 30.0
# Records of some hundred bytes: a few MB at a time.
RECORDS_AT_ONCE = 5_000
# A batch waits this long to be full; short, since the last one never is.
POLL_SECONDS = 0.02

# A topic that was just made, or a broker that was away for a moment, has no leader that all agree on.
NO_LEADER_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]

Partition = tuple[str, int]

STRANGER = "x-stranger"
"""The header that marks what the demo's malicious producer has written; the services do not look at it."""
STRANGERS_ID = "stranger:"
"""Prefix of its new ids."""


class Record(NamedTuple):
    """One record, and what its headers say; an empty string stands for what it lacks."""

    topic: str
    partition: int
    offset: int
    written: datetime
    """When the producer wrote it, by the producer's clock."""
    key: str
    source: str
    id: str
    type: str
    time: str
    value: bytes

    def field(self, name: str) -> object:
        """Return a field of the event; None if it has none, or is not JSON."""
        try:
            event = json.loads(self.value)
        except ValueError:
            return None
        return event.get(name) if isinstance(event, dict) else None

    def __str__(self) -> str:
        at = f"{self.topic}[{self.partition}]@{self.offset}"
        return (
            f"{at} {self.type or '(no type)'} {self.id or '(no id)'} decided {self.time}, written {self.written:%T.%f}"
        )


class End(NamedTuple):
    """The end of a partition."""

    stable: int
    """The LSO: how far a read_committed reader may read."""
    high: int
    """The high watermark. Above `stable`: a transaction is open."""


class Topics:
    """Reads one Kafka cluster and changes nothing in it."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = self._new_admin()
        self._readers: dict[str, Consumer] = {}
        self.strangers = 0
        """Records of the malicious producer that `read` has met."""

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """Return the partitions of `topics`; a topic that does not exist has none."""
        known = self._admin.list_topics(timeout=ANSWER_SECONDS).topics
        return [(topic, number) for topic in topics if topic in known for number in sorted(known[topic].partitions)]

    def ends(self, partitions: Collection[Partition]) -> dict[Partition, End]:
        """Return the ends of `partitions`. The stable end is read first: it must not seem to be beyond the other."""
        stable = self._offsets(partitions, LATEST, IsolationLevel.READ_COMMITTED)
        high = self._offsets(partitions, LATEST, IsolationLevel.READ_UNCOMMITTED)
        return {partition: End(stable[partition], high[partition]) for partition in stable}

    def _offsets(
        self, partitions: Collection[Partition], which: OffsetSpec, isolation: IsolationLevel
    ) -> dict[Partition, int]:
        asked = {TopicPartition(*partition): which for partition in partitions}
        deadline = time.monotonic() + ANSWER_SECONDS
        while asked:
            answer = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=ANSWER_SECONDS)
            try:
                found = {(p.topic, p.partition): future.result(ANSWER_SECONDS).offset for p, future in answer.items()}
            except KafkaException as error:
                if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                    raise
            else:
                silent = sorted(partition for partition, offset in found.items() if offset < 0)
                if not silent:
                    return found
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the leaders of {silent} did not answer")
            time.sleep(POLL_SECONDS)
            self._admin = self._new_admin()  # it would go on asking with the leaders' epochs as it knew them
        return {}

    def _new_admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})

    def committed(self, group: str, partitions: Collection[Partition]) -> dict[Partition, tuple[int, str]]:
        """Return the group's committed offsets with their metadata; what was never committed is left out.

        Asked by a consumer that joins nothing: in read_committed it gets an answer only when no transaction is pending.
        (The admin client of confluent-kafka 2.16.1 crashes the process when it has to report a timeout of this call.)
        """
        if group not in self._readers:
            self._readers[group] = Consumer(self._configuration(group))
        asked = [TopicPartition(*partition) for partition in partitions]
        found = self._readers[group].committed(asked, ANSWER_SECONDS) if asked else []
        for p in found:
            if p.error is not None:
                raise KafkaException(p.error)
        return {(p.topic, p.partition): (p.offset, p.metadata or "") for p in found if p.offset >= 0}

    def read(self, topics: Iterable[str]) -> Iterator[Record]:
        """Read `topics` from the beginning to the present end, with read_committed, in the order of each partition."""
        # As numbers: the client looks up a logical offset half a second later.
        first = self._offsets(self.partitions(topics), EARLIEST, IsolationLevel.READ_UNCOMMITTED)
        left = set(first)
        with self._reader() as reader:
            reader.assign([TopicPartition(*partition, offset) for partition, offset in first.items()])
            deadline = time.monotonic() + SILENCE_SECONDS
            while left:
                for message in reader.consume(RECORDS_AT_ONCE, POLL_SECONDS):
                    deadline = time.monotonic() + SILENCE_SECONDS
                    error = message.error()
                    if error is None:
                        held = _headers(message)
                        self.strangers += STRANGER in held
                        if STRANGER not in held:
                            yield _record(message, held)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard((message.topic() or "", message.partition() or 0))
                    else:
                        raise KafkaException(error)
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"nothing arrived for {SILENCE_SECONDS:.0f} s, and {sorted(left)} is not read to its end"
                    )

    def follow(self, topics: Iterable[str], going: Callable[[], bool]) -> Iterator[Record]:
        """Read what is written to `topics` from now on, while `going` says so. Waits for a broker that is away."""
        ends = self.ends(self.partitions(topics))
        with self._reader() as reader:
            reader.assign([TopicPartition(*partition, end.stable) for partition, end in ends.items()])
            while going():
                message = reader.poll(POLL_SECONDS)
                if message is not None and message.error() is None and STRANGER not in (held := _headers(message)):
                    yield _record(message, held)

    @contextmanager
    def _reader(self) -> Iterator[Consumer]:
        # The client wants the name of a group; it joins none and commits nothing.
        reader = Consumer(self._configuration(f"balance-{uuid.uuid4()}"))
        try:
            yield reader
        finally:
            reader.close()

    def _configuration(self, group: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,  # a reader that measures must not add its own waiting
            "log_level": 0,
        }


def _headers(message: Message) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in client_headers(message) or ()}


def _record(message: Message, headers: dict[str, str]) -> Record:
    _, milliseconds = message.timestamp()
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        written=datetime.fromtimestamp(milliseconds / 1000, UTC),
        key=(message.key() or b"").decode(errors="replace"),
        source=headers.get("ce_source", ""),
        id=headers.get("ce_id", ""),
        type=headers.get("ce_type", "").rpartition(".v")[0],
        time=headers.get("ce_time", ""),
        value=message.value() or b"",
    )
