"""The producer: idempotent and transactional, and trusted only as far as `docs/decision-table.md` says.

Every call has a finite budget. A call that does not plainly succeed raises `KafkaInDoubt`, and the one recovery
replaces the producer. It never aborts: a new producer with the same transactional.id ends the old one's transaction.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from .. import trace_context
from ..errors import ContentRefused, GenerationLost, KafkaInDoubt, KafkaUnavailable, Misconfigured
from ..events import CONTENT_TYPE, SPEC_VERSION
from ..protocol.ports import KEY_BYTES_MAX, REPORTED, Committed, Input, OutboxRow
from ..service import Service
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.waits import MAIN_LOOP
from .access import RECONNECT_MS, RIGHTS, not_permitted
from .ended_transactions import see_ended

GENERATION = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
"""The group moved on, as expected in a rebalance."""

CONTENT = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.RECORD_LIST_TOO_LARGE})
"""A row can never be published. INVALID_MSG is not among them: the client takes it for damage in transit and resends.
"""

SET_UP = {
    KafkaError.INVALID_TIMESTAMP: "the clock of this machine or of the broker is wrong, or the topic's "
    "message.timestamp.*.max.ms allows too little: correct it",
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: "the topic takes no such compression: correct its compression.type",
}
"""Errors caused by the setup of the broker or of this machine, and what to fix."""

REFUSED = frozenset(
    {
        *RIGHTS,
        *SET_UP,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.UNSUPPORTED_VERSION,
    }
)
"""Retrying does not help; an operator has to fix rights or settings."""

PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
"""Errors reported for the rows of any failed transaction, whatever the cause."""

AFTERMATH = PURGED | {KafkaError._STATE, KafkaError._FAIL}
"""Errors of what was under way when a transaction failed, whatever the cause: of rows, of offsets, of a callback."""

MESSAGE_BYTES = 1_000_000
"""The client's default for the largest record; it limits a batch as well, so it is never lowered."""

AROUND_EVENT_BYTES = KEY_BYTES_MAX + 4_000
"""Size of a record beyond its event: the key, and headers of some 500 bytes, whose names are limited in length. (The
`tracestate` and `baggage` are sent where the event leaves room for them.)
"""

SLICE_SECONDS = 1.0
"""Timeout of one call of init or commit; the deadline is checked between two."""

INIT_SECONDS = 0.05
"""Initial timeout for a new producer; it doubles. One that is not connected yet, or that finds the broker still ending
its predecessor's transaction, retries only after half a second, fixed in librdkafka; a replacement asks at once. After
a kill within a transaction this takes 0.17 s instead of 0.56.
"""

SUSPICIOUS = ("REQTMOUT", "FAIL", "TIMEOUT")
"""librdkafka's log facilities for an unanswered request or a lost connection."""

NOT_CONNECTED = re.compile(r"in state (?:CONNECT|SSL_HANDSHAKE|APIVERSION_QUERY|AUTH_\w+)\b")
"""Marks such a line about a connection that was never established, so that no request of ours was sent on it. While one
of three brokers is down, the client keeps reconnecting, and a proxy in front of it may accept that.
"""


IN_ORDER = {"enable.idempotence": True, "acks": "all", "max.in.flight.requests.per.connection": 1}
"""Settings of a producer whose batches do not overtake each other. Idempotence alone does not do it: a leader takes any
first sequence number of a producer that it does not know (KAFKA-15591; Kafka 4.5 refuses that on partitions that never
had a record). If it refuses a batch, as a broker does that is about to lead, and takes the one behind it, librdkafka
counts both as acknowledged. One request on its way at a time prevents that, but for a leader that moves meanwhile.
"""

NO_OFFSET = KafkaError(KafkaError._INCONSISTENT, "a row was acknowledged without an offset, so no broker may have it")
"""What librdkafka counts as acknowledged without an answer has no offset."""


def configuration(settings: Settings, service: Service, slot: int) -> dict[str, Any]:
    """Return the client's settings for the worker in `slot`; all budgets follow from the transaction timeout."""
    timeout = settings.transaction_timeout_ms
    return {
        **settings.kafka(),
        "client.id": f"{service.name}-{slot}",
        "transactional.id": f"{service.name}-{slot}",
        "transaction.timeout.ms": timeout,
        # A producer is suspect after an answer that took half of this (KAFKA-17754), so both must fit within the
        # transaction timeout.
        "socket.timeout.ms": timeout // 3,
        "message.max.bytes": max(MESSAGE_BYTES, settings.event_bytes_max + AROUND_EVENT_BYTES),
        "message.timeout.ms": timeout * 3 // 4,
        **IN_ORDER,
        # CRC32 of the key, so that a row's lane and its record's partition agree.
        "partitioner": "consistent",
        # At its default of 100 ms, back-to-back transactions wait for the coordinator to finish the last one.
        "retry.backoff.ms": 5,
        "reconnect.backoff.ms": RECONNECT_MS,
        "reconnect.backoff.max.ms": 1_000,
        # A batch is sent at once, and gathers while its partitions are added to the transaction. With a linger
        # of 5 ms a flush took 4 ms longer.
        "linger.ms": 0,
        "socket.keepalive.enable": True,
    }


class TransactionalProducer:
    """The producing half of `shared.protocol.ports.Kafka`."""

    def __init__(
        self, settings: Settings, service: Service, slot: int, make: Callable[..., Producer] = Producer
    ) -> None:
        self._service = service
        self._settings = settings
        self._make = make
        self._configuration = configuration(settings, service, slot) | {"on_delivery": self._delivered}
        self._budget = settings.transaction_timeout_ms / 1_000
        self._suspect_seconds = self._configuration["socket.timeout.ms"] / 2_000
        self._producer: Producer | None = None
        self._logger = logs.of_client(f"{service.name}-{slot}", _Suspicion(self))
        self._suspect: str | None = None
        self._refused: KafkaError | None = None
        self._sending: float | None = None
        """Since when the client sends rows of this transaction, on its own."""
        self._headers = [("ce_specversion", SPEC_VERSION), ("ce_source", service.name), ("content-type", CONTENT_TYPE)]

    def renew(self) -> None:
        old, self._producer = self._producer, None
        if old is not None:
            # Without the purge, destroying the old client would wait for its rows.
            old.purge(in_queue=True, in_flight=True, blocking=False)
            del old
        # This and the following fit into the watchdog's budget for a recovery: three transaction timeouts.
        with MAIN_LOOP.waiting("Kafka to end what our predecessor left open (init_transactions)", self._budget):
            producer = self._initialised()
        # When `init_transactions` returns, our old transaction should have ended. That is not always true.
        see_ended(self._settings, self._service, self._budget / 2)
        producer.poll(0)  # log lines about its start are no longer relevant
        self._producer = producer
        self._suspect = self._refused = None

    def _initialised(self) -> Producer:
        began, patience = time.monotonic(), INIT_SECONDS
        while True:
            producer = self._make(self._configuration, logger=self._logger)
            with suppress(KafkaException):
                producer.list_topics(timeout=SLICE_SECONDS)  # waits for a connection
            try:
                producer.init_transactions(patience)
                break
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() in REFUSED:
                    refused = Misconfigured(
                        f"Kafka refuses the transactional producer: {reason.name()}: {reason.str()}"
                    )
                    raise not_permitted(reason) or refused from error
                if not reason.retriable():
                    raise KafkaInDoubt(f"init_transactions: {reason.name()}: {reason.str()}") from error
                if time.monotonic() - began > 0.75 * self._budget:
                    raise KafkaUnavailable(f"init_transactions: {reason.name()}: {reason.str()}") from error
                patience = min(2 * patience, SLICE_SECONDS)
        return producer

    def begin(self) -> None:
        self.confirm()
        self._refused = self._sending = None
        with self._timed("begin_transaction") as producer:
            producer.begin_transaction()

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        deadline = time.monotonic() + self._budget
        largest = self._settings.event_bytes_max
        with self._timed("produce", suspicious=False) as producer:
            produce = producer.produce
            for row in rows:
                headers: list[tuple[str, str | bytes | None]] = [
                    *self._headers,
                    ("ce_id", row.event_id),
                    ("ce_type", f"{row.event_type}.v{row.event_version}"),
                    ("ce_time", row.time),
                ]
                if row.traceparent:  # with the event it may fill what topics have room for, and no more
                    headers += trace_context.headers_within(row.traceparent, largest - len(row.data))
                while True:
                    try:
                        produce(row.topic, row.data, row.key, headers=headers)
                        break
                    except BufferError:
                        if time.monotonic() > deadline:
                            raise KafkaInDoubt("the producer's queue stayed full") from None
                        producer.poll(0.05)
        if rows:
            self._sending = time.monotonic()

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:
        if group_metadata is None:
            # Without a member the broker would skip the generation check (KAFKA-9365).
            raise GenerationLost("this consumer is no member of its group")
        offsets = [TopicPartition(*source, offset, metadata=REPORTED) for source, offset in inputs.items()]
        for lane, published in lanes.items():
            offsets.append(
                TopicPartition(self._service.lane_topic, lane, published.offset, metadata=published.metadata)
            )
        with self._timed("send_offsets_to_transaction") as producer:
            producer.send_offsets_to_transaction(offsets, group_metadata, self._budget)

    def commit(self) -> None:
        # The commit would flush as well, and fail if a row did. Here the failure is found before anything is decided.
        with self._timed("flush", since=self._sending) as producer:
            left = producer.flush(self._budget)
        if left:
            raise KafkaInDoubt(f"{left} rows were not acknowledged in time")
        self._check()
        deadline = time.monotonic() + self._budget
        with self._timed("commit_transaction") as producer:
            while True:
                try:
                    producer.commit_transaction(SLICE_SECONDS)
                    break
                except KafkaException as error:
                    # After a timeout only the same call may follow; it resumes where it was.
                    if error.args[0].code() != KafkaError._TIMED_OUT or time.monotonic() > deadline:
                        raise
            producer.poll(0)  # serves the log
        self._check()
        if self._suspect:
            # librdkafka cannot tell a delayed EndTxn of this transaction from one of the next (KIP-890), so no
            # transaction may follow with this epoch.
            raise KafkaInDoubt(f"committed, but under suspicion: {self._suspect}")

    def confirm(self) -> None:
        with self._timed("poll", suspicious=False) as producer:
            producer.poll(0)  # serves the log
        if self._suspect:
            raise KafkaInDoubt(f"in doubt since the last commit: {self._suspect}")

    def close(self) -> None:
        """Drop the producer without waiting."""
        if self._producer is not None:
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            self._producer = None

    def suspect(self, reason: str) -> None:
        """Note that a request may still be on its way."""
        self._suspect = self._suspect or reason

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None and message.offset() is None:
            error = NO_OFFSET
        if error is not None and (self._refused is None or error.code() in CONTENT):
            self._refused = error

    def _check(self) -> None:
        if self._refused is not None:
            raise _meaning("delivery", self._cause(self._refused))

    def _cause(self, error: KafkaError) -> KafkaError:
        """Find out why a transaction failed if `error` does not tell: beginning another one fails with the cause."""
        if self._producer is not None and error.code() in AFTERMATH:
            try:
                self._producer.begin_transaction()
            except KafkaException as refused:
                cause: KafkaError = refused.args[0]
                if cause.code() != KafkaError._STATE:  # _STATE: it did not fail
                    return cause
        return error

    @contextmanager
    def _timed(self, call: str, *, suspicious: bool = True, since: float | None = None) -> Iterator[Producer]:
        """Time a call, or what the client has done `since`, and translate its failure into our errors."""
        if self._producer is None:
            raise KafkaInDoubt("there is no producer")
        began = time.monotonic() if since is None else since
        try:
            with MAIN_LOOP.waiting(f"Kafka's answer to {call}", self._budget):
                yield self._producer
        except KafkaException as error:
            self._check()
            raise _meaning(call, self._cause(error.args[0])) from error
        except SystemError as error:
            # A fatal error may be raised while a delivery callback runs (confluent-kafka-python #865).
            raise _meaning(call, self._cause(KafkaError(KafkaError._FAIL, str(error)))) from error
        took = time.monotonic() - began
        if suspicious and took >= self._suspect_seconds:
            self.suspect(f"{call} took {took:.1f} s")


def _meaning(call: str, error: KafkaError) -> Exception:
    text = f"{call}: {error.name()}: {error.str()}"
    if error.code() in GENERATION:
        return GenerationLost(text)
    if error.code() in CONTENT:
        return ContentRefused(text)
    if error.code() in REFUSED:
        remedy = SET_UP.get(error.code(), "")
        return not_permitted(error) or Misconfigured(
            f"Kafka does not permit this service to work: {text}" + (f": {remedy}" if remedy else "")
        )
    return KafkaInDoubt(text)


class _Suspicion(logging.Handler):
    """Searches librdkafka's log for unanswered requests."""

    def __init__(self, producer: TransactionalProducer) -> None:
        super().__init__()
        self._producer = producer

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line.startswith(SUSPICIOUS) and not NOT_CONNECTED.search(line):
            self._producer.suspect(line)
