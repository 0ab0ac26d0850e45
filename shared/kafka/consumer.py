"""The consumer: a member of the group that owns inputs and lanes, and fetches only what it is told to.

Callbacks of the client only note what happened; `shared.protocol.cycle` acts on it in the main loop.
"""

import gc
import hashlib
import operator
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ..errors import Fenced, KafkaUnavailable, Misconfigured, NotLetIn, NotReleased, Unproven
from ..protocol.ports import NOTHING, Assignment, Committed, Input, Polled, Record
from ..protocol.verdicts import compare_reach
from ..service import Service
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.waits import MAIN_LOOP
from . import batch_header
from .access import RECONNECT_MS, denial, not_permitted
from .undecodable import CODES as UNREADABLE_CODES
from .undecodable import Unreadable

MISSING = -1001
"""librdkafka's OFFSET_INVALID: nothing was committed."""

REQUEST_SECONDS = 5.0
"""The longest wait for one answer of the group coordinator; it fits several times into the watchdog's budget."""

LEAVE_SECONDS = 2.0
"""Leaving takes 50 ms; if the broker does not answer, the session timeout removes the member."""

REBALANCE_SECONDS = 30.0
"""A rebalance takes a few seconds, or a session timeout if a member is gone. A worker without a share after this long
is not working.
"""

SLICE_MIN, SLICE_MAX = 0.005, 0.025
"""A poll of the client ends only for reasons of its own, so a wait that may end for another one is made of short polls.
Each takes some 70 us of CPU: the longest, which an idle worker makes, are a third of a percent of a core.
"""

SLICES = 40
"""Parts of a wait. A short one, soon after work, has shorter parts: it may hope for more."""

MAX_POLL_MS = 120_000
"""The minimum time without a poll before the broker reassigns the partitions. A working worker polls; one that waits
for a server, or for a transaction to end, lets others take over.
"""

MAX_POLL_DEBUGGING_MS = 86_400_000
"""A day, the client's maximum: time to stand at a breakpoint."""

NAMELESS = "\ufffd"
"""Replaces the name of a header that is not text."""

RECEIVE_BYTES_MAX = 1_000_000_000
"""The largest response accepted, and the largest zstd batch once unpacked. With the client's default of 100 MB, a batch
of zeros that takes 8 kB on the broker stops its partition for ever (_BAD_COMPRESSION).
"""

FETCH_HEAD_BYTES = 512
"""Space that librdkafka reserves for the header of a response."""

OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
"""The first also covers any other failure to find an offset, such as an unresolved name or a refused connection."""

LANE_OFFSET = 0
"""The offset at which a lane is held. Its topic is empty and nothing is fetched. Unlike the end, a number needs no
request; while the leader does not answer, the client would report the end as an offset that does not exist.
"""

SET_UP = {
    KafkaError.INVALID_SESSION_TIMEOUT: "SESSION_TIMEOUT_MS: the broker allows group.min.session.timeout.ms to "
    "group.max.session.timeout.ms",
    KafkaError.UNSUPPORTED_ASSIGNOR: "GROUP_PROTOCOL: the broker does not have the assignor `range` for `consumer`",
    KafkaError.INVALID_GROUP_ID: "the service's name is not a valid group name",
}
"""Errors that keep this worker out of the group until an operator fixes the cause, and what to fix."""

FATAL = (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED)

NOT_RELEASED = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
"""What a static member is told that joins while its predecessor's session lasts: KIP-848 does not let it take over. The
code of a fatal error is always _FATAL, so its text tells.
"""


def max_poll_ms(settings: Settings) -> int:
    """Return the longest time a member may go without a poll; a rebalance waits this long for it too. It exceeds the
    watchdog's budget of a cycle, so that it never acts first; the client requires at least the session timeout.
    """
    if settings.debug_no_timeouts:
        return MAX_POLL_DEBUGGING_MS
    return max(MAX_POLL_MS, 2 * settings.transaction_timeout_ms, settings.session_timeout_ms)


def configuration(settings: Settings, service: Service, slot: int) -> dict[str, Any]:
    """Return the client's settings for the worker in `slot`."""
    topics = ",".join((*service.consumed_topics, service.lane_topic))
    # A static member that rejoins with another subscription triggers no rebalance (KAFKA-12759), so the subscription is
    # part of its name.
    subscription = hashlib.sha256(topics.encode()).hexdigest()[:8]
    common = {
        **settings.kafka(),
        "client.id": f"{service.name}-{slot}",
        "group.id": service.name,
        "group.instance.id": f"{service.name}-{slot}-{subscription}",
        "group.protocol": settings.group_protocol,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Only the next offset decides where to read; an offset that does not exist is an error, never a guess.
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "max.poll.interval.ms": max_poll_ms(settings),
        "queued.min.messages": settings.prefetch_records,
        "queued.max.messages.kbytes": settings.prefetch_kilobytes,
        # Responses on their way take memory too, and one that is too large to receive must not be requested.
        "fetch.max.bytes": min(settings.prefetch_kilobytes * 1_024, RECEIVE_BYTES_MAX - FETCH_HEAD_BYTES),
        # At its default of 1 s a consumer stalls for that long whenever its queue was full.
        "fetch.queue.backoff.ms": 5,
        "receive.message.max.bytes": RECEIVE_BYTES_MAX,
        "fetch.wait.max.ms": 100,
        "retry.backoff.ms": 10,
        "reconnect.backoff.ms": RECONNECT_MS,
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
    }
    # range gives partition n of every topic, the lanes among them, to the same worker: it publishes what it has just
    # handled in the same cycle.
    if settings.group_protocol == "consumer":
        common["group.remote.assignor"] = "range"
    else:
        common |= {
            "partition.assignment.strategy": "range",
            "session.timeout.ms": settings.session_timeout_ms,
            "heartbeat.interval.ms": min(3_000, settings.session_timeout_ms // 3),
        }
    return common


class GroupMember:
    """The consuming half of `shared.protocol.ports.Kafka`."""

    def __init__(self, settings: Settings, service: Service, slot: int) -> None:
        self._service = service
        self._consumer = Consumer(
            configuration(settings, service, slot) | {"error_cb": self._on_error},
            logger=logs.of_client(f"{service.name}-{slot}.consumer"),
        )
        self._owned: Assignment = NOTHING
        self._changed = False
        self._assigned_at: float | None = None
        """When the group last assigned or revoked a share; None before the first."""
        self._rebalancing = False
        self._reading: set[Input] = set()
        self._ends_wait: Callable[[], bool] = lambda: False
        self._unreadable = Unreadable(service.name, partial(batch_header.read, settings, f"{service.name}-{slot}"))
        self._incremental = settings.group_protocol == "consumer"
        self._consumer.subscribe(
            [*service.consumed_topics, service.lane_topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    # The callbacks run inside `poll` and `consume`, on our own thread.

    def _on_error(self, error: KafkaError) -> None:
        """Report denied access; the client retries everything by itself."""
        reason = denial(error)
        if reason is not None:
            logs.log.error("kafka_denied", detail=reason)

    def _share(self, partitions: list[TopicPartition]) -> Assignment:
        lane_topic = self._service.lane_topic
        return Assignment(
            frozenset(Input(p.topic, p.partition) for p in partitions if p.topic != lane_topic),
            frozenset(p.partition for p in partitions if p.topic == lane_topic),
        )

    @property
    def assigned(self) -> bool:
        """Whether the group has assigned this worker its share, even an empty one. During a rebalance the last answer
        counts, for some seconds.
        """
        if self._incremental:  # KIP-848 does not announce an empty share
            return bool(self._consumer.memberid())
        if self._assigned_at is None:
            return False
        return not self._rebalancing or time.monotonic() - self._assigned_at < REBALANCE_SECONDS

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned_at, self._rebalancing = time.monotonic(), False
        share = self._share(partitions)
        # The callback must assign, or the client does so by itself, at the committed offsets. Inputs follow in the
        # main loop, at their next offsets.
        self._assign({}, share.lanes, fresh=True)
        self._owned = Assignment(self._owned.inputs | share.inputs, self._owned.lanes | share.lanes)
        self._changed = True

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not self._rebalancing and self._assigned_at is not None:
            self._assigned_at, self._rebalancing = time.monotonic(), True
        share = self._share(partitions)
        self._owned = Assignment(self._owned.inputs - share.inputs, self._owned.lanes - share.lanes)
        self._changed = True
        if self._incremental:
            # Only partitions that were actually assigned may be unassigned incrementally.
            gone = [
                p
                for p in partitions
                if p.topic == self._service.lane_topic or Input(p.topic, p.partition) in self._reading
            ]
            self._consumer.incremental_unassign(gone)
        self._reading -= share.inputs

    def _assign(self, positions: Mapping[Input, int], lanes: Collection[int], *, fresh: bool) -> None:
        """Fetch `positions`, and hold `lanes` without fetching anything: paused for ever."""
        held = [TopicPartition(self._service.lane_topic, lane, LANE_OFFSET) for lane in sorted(lanes)]
        inputs = [TopicPartition(source.topic, source.partition, offset) for source, offset in positions.items()]
        if self._incremental:
            if self._reading:
                self._consumer.incremental_unassign([TopicPartition(*source) for source in self._reading])
            self._consumer.incremental_assign(inputs + (held if fresh else []))
        else:
            self._consumer.assign(inputs + held)
        self._reading = set(positions)
        if inputs:
            self._consumer.resume(inputs)  # a pause survives revoke and assign
            self.pause(self._unreadable.held(positions))
        if held:
            self._consumer.pause(held)

    def end_waits_if(self, condition: Callable[[], bool]) -> None:
        """End the wait of a poll once `condition` holds."""
        self._ends_wait = condition

    def _first(self, seconds: float) -> Message | None:
        """Wait up to `seconds` for a message; less if the share changes, or the wait is to end."""
        end = time.monotonic() + seconds
        piece = min(max(seconds / SLICES, SLICE_MIN), SLICE_MAX)
        while True:
            found = self._consumer.poll(max(0.0, min(piece, end - time.monotonic())))
            if found is not None or self._changed or self._ends_wait() or time.monotonic() >= end:
                return found

    # The port.

    def poll(self, records: int, seconds: float) -> Polled:
        found: list[Record] = []
        ends: dict[Input, int] = {}
        if (due := self._unreadable.due()) is not None:
            raise Unproven(f"{due} could not be read, and is tried again")
        try:
            first = self._first(seconds)
            messages = [] if first is None else [first]
            if first is not None and records > 1:
                messages += self._consumer.consume(records - 1, 0)
        except KafkaException as error:
            raise _fatal(error.args[0]) or KafkaUnavailable(f"poll: {error.args[0]}") from error
        for message in messages:
            source = Input(message.topic() or "", message.partition() or 0)
            problem = message.error()
            if problem is None:
                if source in self._reading:
                    found.append(_record(source, message))
            elif problem.code() == KafkaError._PARTITION_EOF:
                if source in self._reading:
                    ends[source] = message.offset() or 0
            else:
                self._failed(source, problem, message.offset() or 0)
        # Take the metadata now: it must be that of this batch.
        group_metadata = self._consumer.consumer_group_metadata() if self._consumer.memberid() else None
        assigned = self._owned if self._changed else None
        self._changed = False
        return Polled(found, ends, assigned, group_metadata)

    def _failed(self, source: Input, error: KafkaError, offset: int) -> None:
        """Judge an error that the client reports instead of a record. Raises `Unproven` if it may have given up a
        partition being read: it reports that once, and fetches no more until it is told where to read again.
        """
        fatal = _fatal(error, source.topic)
        if fatal is not None:
            raise fatal
        if source in self._reading and error.code() in UNREADABLE_CODES:
            # No recovery: it would drop the records fetched before this one, and not fetch them again.
            if source not in self._unreadable:
                words = self._unreadable.note(source, offset, error)
                logs.log.error("unreadable", source=str(source), offset=offset, code=error.name(), detail=words)
                self.pause([source])
            return
        logs.log.warning("consumer_error", source=str(source), code=error.name(), detail=error.str())
        if source not in self._reading:
            return
        if error.code() in OUT_OF_RANGE:
            try:
                watermarks = self._consumer.get_watermark_offsets(TopicPartition(*source), REQUEST_SECONDS)
            except KafkaException as unanswered:
                raise Unproven(
                    f"{source}: nothing could be fetched at {offset} ({error.str()}), and no broker knows how far "
                    "it goes "
                    f"({unanswered.args[0]})"
                ) from unanswered
            compare_reach(self._service.name, source, offset, *watermarks)
        raise Unproven(f"{source}: nothing could be fetched at {offset} ({error.name()}: {error.str()})")

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
        return committed_offsets(self._consumer, self._service.lane_topic, inputs, lanes)

    def beginning(self, source: Input) -> int:
        try:
            with MAIN_LOOP.waiting(f"the first offset of {source}", REQUEST_SECONDS):
                low, _ = self._consumer.get_watermark_offsets(TopicPartition(*source), REQUEST_SECONDS)
        except KafkaException as error:
            raise KafkaUnavailable(f"first offset of {source}: {error.args[0]}") from error
        return int(low)

    def read_from(self, positions: Mapping[Input, int], lanes: Collection[int]) -> None:
        if self._owned != NOTHING:
            self._assign(positions, lanes, fresh=False)

    def pause(self, inputs: Collection[Input]) -> None:
        self._consumer.pause([TopicPartition(*source) for source in inputs])

    def resume(self, inputs: Collection[Input]) -> None:
        self._consumer.resume([TopicPartition(*source) for source in inputs if source not in self._unreadable])

    @property
    def unreadable(self) -> str:
        """The inputs that cannot be read, and what to do about it; empty if all can."""
        return self._unreadable.words()

    def leave(self) -> None:
        """Leave the group now, so that even a static member's partitions move at once. Under KIP-848 a static member
        leaves only when its session ends.
        """
        self._consumer.unsubscribe()
        # A poll sends the request; a client that is closed right away sends nothing.
        deadline = time.monotonic() + LEAVE_SECONDS
        with suppress(KafkaException):
            while self._consumer.memberid() and time.monotonic() < deadline:
                self._consumer.poll(0.05)

    def close(self) -> None:
        """Close the client. A static member keeps its partitions until the session timeout, so that a restart in place
        moves nothing.
        """
        # A rebalance that starts while the client closes would make it wait for itself for ever, so serve one now. The
        # watchdog covers one that starts in between.
        with suppress(KafkaException):
            self._consumer.poll(0)
        self._consumer.close()


def committed_offsets(
    consumer: Consumer,
    lane_topic: str,
    inputs: Collection[Input],
    lanes: Collection[int],
    seconds: float = REQUEST_SECONDS,
) -> dict[Input | int, Committed]:
    """Read the committed offsets of the consumer's group, stable ones only; the consumer need not be a member.

    Raises `KafkaUnavailable`, also when a transaction with one of these offsets stays open for `seconds`.
    """
    asked = [TopicPartition(*source) for source in inputs] + [TopicPartition(lane_topic, lane) for lane in lanes]
    if not asked:
        return {}
    try:
        with MAIN_LOOP.waiting(
            f"the committed offsets of {len(asked)} partitions, which no transaction may hold", seconds
        ):
            answer = consumer.committed(asked, seconds)
    except KafkaException as error:
        # With read_committed the broker answers only after pending transactions are settled, which may take their
        # whole timeout.
        raise _fatal(error.args[0]) or KafkaUnavailable(f"committed offsets: {error.args[0]}") from error
    found: dict[Input | int, Committed] = {}
    for p in answer:
        if p.error is not None:
            unavailable = KafkaUnavailable(f"committed offset of {p.topic}[{p.partition}]: {p.error}")
            raise _fatal(p.error, p.topic) or unavailable
        if p.offset != MISSING:
            key = p.partition if p.topic == lane_topic else Input(p.topic, p.partition)
            found[key] = Committed(p.offset, p.metadata or "")
    return found


def _record(source: Input, message: Any) -> Record:
    return Record(source, message.offset(), message.key(), message.value(), headers(message))


_headers = operator.methodcaller("headers")


def headers(message: Any) -> list[tuple[str, bytes | None]] | None:
    """Return the headers of a message; the client returns a list of pairs, despite its annotation.

    A header whose name is not UTF-8 makes the client raise although it has built the list, so ask again. The name's
    place in the pair is then a null pointer, not None, and touching it crashes the process; the garbage collector's
    view shows it. No known producer writes such a header, and its name is lost.

    Do not call `message.headers()` directly: once hot, the interpreter calls it without checking for an error, which
    then surfaces in some other call.
    """
    try:
        return _headers(message)  # type: ignore[no-any-return]
    except (SystemError, UnicodeDecodeError):
        found = _headers(message)
        return [(pair[0] if len(gc.get_referents(pair)) == 2 else NAMELESS, pair[1]) for pair in found or ()]


def _fatal(error: KafkaError, topic: str = "") -> Fenced | Misconfigured | KafkaUnavailable | None:
    if NOT_RELEASED in error.str():
        return NotReleased(
            "the group still counts an earlier client with this worker's group.instance.id as a member: one that was "
            "killed, until its session ends (group.consumer.session.timeout.ms of the broker, 45 s by default), or a "
            "process that does not use this database"
        )
    if error.fatal() or error.code() in FATAL:
        return Fenced(
            f"the group has given this worker's group.instance.id to another client: {error.name()}: {error.str()}"
        )
    if error.code() == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
        return KafkaUnavailable(
            "the group has members of another kind, and admits this one when they have left: another program, or "
            f"workers with another GROUP_PROTOCOL ({error.name()}: {error.str()})"
        )
    if error.code() in SET_UP:
        return Misconfigured(f"{SET_UP[error.code()]} ({error.name()}: {error.str()})")
    if error.code() == KafkaError._AUTHENTICATION:
        return NotLetIn(denial(error))
    return not_permitted(error, topic)
