"""A malicious producer: it writes to every topic that a service consumes, while orders flow.

It sends records of every shape (`dev.hostile`), real events once more under their own ids and under new ones, also in
the name of the service that published them, and whatever it likes in transactions that it aborts. None of it may show
in the balance sheet.

It sends no new content in a good form: that cannot be told from an event of the service (docs/events.md), so the right
to write is what guards a topic. For the same reason each of its records has a mark that only the balance sheet
reads: the services ignore headers that are not theirs.
"""

import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from dev.balance.topics import STRANGER, STRANGERS_ID
from dev.hostile.raw import Raw, RawProducer
from dev.hostile.records import HARMLESS, Target, record
from shared.kafka.consumer import headers

PER_SECOND = 30
"""Records; some hundred times what a broken producer would have to send to be noticed."""

REMEMBERED = 200
"""The real events of which it chooses one to repeat."""

ABORTED_AT_ONCE = 20
ABORT_SECONDS = 3.0
ANSWER_SECONDS = 15.0
STOP_SECONDS = 60.0


class Seen(NamedTuple):
    """A real event."""

    raw: Raw
    facts: dict[str, bytes]

    @property
    def target(self) -> Target:
        """What is bent."""
        event = json.loads(self.raw.value or b"{}")
        return Target(self.raw.topic, self.facts["ce_type"].decode(), event, (self.raw.key or b"").decode())


class Stranger:
    """Works on a thread of its own while the block runs."""

    def __init__(self, bootstrap: str, topics: Iterable[str], seed: int) -> None:
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._random = random.Random(seed)
        self._seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stranger", daemon=True)
        self._number = 0
        self.counts: Counter[str] = Counter()
        """Records sent, by kind."""
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait until the broker has what was sent."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        common = {"bootstrap.servers": self._bootstrap, "log_level": 0}
        reader = Consumer({**common, "group.id": "stranger", "isolation.level": "read_committed"})
        liar = Producer({**common, "transactional.id": "stranger"})
        kinds: tuple[Callable[[Seen], Raw], ...] = (self._bent, self._bent, self._again, self._under_a_new_id)
        try:
            reader.assign(self._partitions(reader))
            liar.init_transactions(ANSWER_SECONDS)
            aborted = time.monotonic()
            with RawProducer(self._bootstrap) as producer:
                while not self._stopping.wait(1 / PER_SECOND):
                    self._look(reader)
                    if not self._seen:
                        continue
                    make = self._random.choice(kinds)
                    producer.send(self._marked(make(self._random.choice(self._seen))))
                    self.counts[make.__name__.strip("_").replace("_", " ")] += 1
                    if time.monotonic() - aborted >= ABORT_SECONDS:
                        self._abort(liar)
                        aborted = time.monotonic()
                producer.flush()
        except Exception as error:  # noqa: BLE001 - it belongs to the main thread, which looks here
            self.error = error
        finally:
            reader.close()

    def _partitions(self, reader: Consumer) -> list[TopicPartition]:
        known = reader.list_topics(timeout=ANSWER_SECONDS).topics
        return [
            TopicPartition(topic, number, OFFSET_BEGINNING)
            for topic in self._topics
            for number in known[topic].partitions
        ]

    def _look(self, reader: Consumer) -> None:
        for message in reader.consume(500, 0):
            held = headers(message) or []
            facts: dict[str, Any] = dict(held)
            if message.error() is not None or STRANGER in facts:
                continue
            raw = Raw(
                message.topic() or "",
                message.key(),
                message.value(),
                [(name.encode(), value) for name, value in held],
                message.partition() or 0,
            )
            self._seen.append(Seen(raw, facts))

    def _marked(self, raw: Raw) -> Raw:
        return raw._replace(headers=[*raw.headers, (STRANGER.encode(), b"1")])

    def _id(self) -> str:
        self._number += 1
        return f"{STRANGERS_ID}{self._number}"

    def _bent(self, seen: Seen) -> Raw:
        """A record of any shape, on the partition of the event that it was made from."""
        shape = self._random.choice(HARMLESS)
        return record(self._random, seen.target, self._id(), shape)._replace(partition=seen.raw.partition)

    def _again(self, seen: Seen) -> Raw:
        """The same once more, as it is."""
        return seen.raw

    def _under_a_new_id(self, seen: Seen) -> Raw:
        """The same, as another event of the service, or of a stranger."""
        source = self._random.choice((seen.facts["ce_source"], b"stranger"))
        facts = {**seen.facts, "ce_id": self._id().encode(), "ce_source": source}
        return seen.raw._replace(headers=[(name.encode(), value) for name, value in facts.items()])

    def _abort(self, liar: Producer) -> None:
        """Forge what would do harm: cancel orders, and take money twice. It is never committed."""
        liar.begin_transaction()
        for _ in range(ABORTED_AT_ONCE):
            seen = self._random.choice(self._seen)
            facts: Any = {**seen.facts, "ce_id": self._id(), "ce_type": "OrderCancelled.v1", STRANGER: "1"}
            liar.produce("order.events", seen.raw.value, seen.raw.key, headers=list(facts.items()))
        liar.flush(ANSWER_SECONDS)
        liar.abort_transaction(ANSWER_SECONDS)
        self.counts["aborted"] += ABORTED_AT_ONCE


def told(counts: Counter[str]) -> str:
    """Describe what it sent."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    return f"{counts.total():,} records: {kinds}"
