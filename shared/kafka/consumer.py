"""The consumer: a member of the group that owns inputs and lanes, and fetches only what it is told to.

Callbacks of the client only note what happened; everything is done in the main loop, by `shared.protocol.cycle`.
"""

import gc
import hashlib
import operator
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ..errors import Fenced, KafkaUnavailable, Misconfigured, NotLetIn, Unproven
from ..protocol.ports import NOTHING, Assignment, Committed, Input, Polled, Record
from ..protocol.verdicts import compare_reach
from ..service import Service
from ..settings import Settings
from ..telemetry import logs
from ..telemetry.waits import MAIN_LOOP
from . import batch_header
from .access import denial, not_permitted
from .unreadable import CODES as UNREADABLE_CODES
from .unreadable import Unreadable

MISSING = -1001
"""librdkafka's OFFSET_INVALID: nothing was committed."""

REQUEST_SECONDS = 5.0
"""The longest wait for one answer of the group's coordinator; it fits several times into the watchdog's budget."""

LEAVE_SECONDS = 2.0
"""It takes 50 ms; a broker that does not answer learns of it by the session timeout."""

REBALANCE_SECONDS = 30.0
"""A group deals its shares out anew in some seconds, or in a session timeout if a member is gone. Who has none after so
long does not work.
"""

MAX_POLL_MS = 120_000
"""The least that the broker waits without a poll before it gives the partitions away. A worker polls when it works; one
that waits for a server, or for a transaction to end, lets others take over.
"""

MAX_POLL_DEBUGGING_MS = 86_400_000
"""A day, the most that the client takes: for whoever stands at a breakpoint."""

NAMELESS = "\ufffd"
"""Stands for the name of a header that is no text."""

RECEIVE_BYTES_MAX = 1_000_000_000
"""The largest answer that is taken, and the largest batch of zstd when it is unpacked. With the client's default of
100 MB a batch of zeros that has 8 kB on the broker stops its partition for ever (_BAD_COMPRESSION).
"""

FETCH_HEAD_BYTES = 512
"""What librdkafka keeps free for the head of an answer."""

OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
"""The first also stands for whatever else kept the client from finding an offset: a name that is not resolved, a
connection that is refused.
"""

LANE_OFFSET = 0
"""Where a lane is held. Nothing is in its topic and nothing is fetched; and a number need not be asked for, as the end
must: while its leader does not answer, the client would call that an offset that does not exist.
"""

SET_UP = {
    KafkaError.INVALID_SESSION_TIMEOUT: "SESSION_TIMEOUT_MS: the broker allows group.min.session.timeout.ms to "
    "group.max.session.timeout.ms",
    KafkaError.UNSUPPORTED_ASSIGNOR: "GROUP_PROTOCOL: the broker does not have the assignor `range` for `consumer`",
    KafkaError.INVALID_GROUP_ID: "the service's name is no name of a group",
}
"""What keeps this worker out of the group until somebody mends it; and what to mend."""

FATAL = (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED)


def max_poll_ms(settings: Settings) -> int:
    """The longest that a member may be without a poll; so long, too, the group waits for it when it deals anew. Above
    the watchdog's budget of a cycle, so that this never decides first; the client wants no less than the session's
    timeout.
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
        # The next offset alone says where to read; an offset that does not exist is an error and never a guess.
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "max.poll.interval.ms": max_poll_ms(settings),
        "queued.min.messages": settings.prefetch_records,
        "queued.max.messages.kbytes": settings.prefetch_kilobytes,
        # What is on its way takes memory too; and what cannot be received must not be asked for.
        "fetch.max.bytes": min(settings.prefetch_kilobytes * 1_024, RECEIVE_BYTES_MAX - FETCH_HEAD_BYTES),
        # At its default of 1 s a consumer stands still for that long whenever its queue has been full.
        "fetch.queue.backoff.ms": 5,
        "receive.message.max.bytes": RECEIVE_BYTES_MAX,
        "fetch.wait.max.ms": 100,
        "retry.backoff.ms": 10,
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
        """When the group last gave a share, or took it away; None before the first."""
        self._rebalancing = False
        self._reading: set[Input] = set()
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
        """The client tries again by itself; that we are not let in any more must be reported."""
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
        """Whether the group has given this worker its share, be it an empty one. While it is dealt out anew, for some
        seconds, the last word counts.
        """
        if self._incremental:  # an empty share is not told under KIP-848
            return bool(self._consumer.memberid())
        if self._assigned_at is None:
            return False
        return not self._rebalancing or time.monotonic() - self._assigned_at < REBALANCE_SECONDS

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned_at, self._rebalancing = time.monotonic(), False
        share = self._share(partitions)
        # The callback must assign, or the client would do it by itself, at the committed offsets. Inputs follow in the
        # main loop, at the next offset.
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
            # Only what was really assigned may be unassigned piece by piece.
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

    # The port.

    def poll(self, records: int, seconds: float) -> Polled:
        found: list[Record] = []
        ends: dict[Input, int] = {}
        if (due := self._unreadable.due()) is not None:
            raise Unproven(f"{due} could not be read, and is tried again")
        try:
            first = self._consumer.poll(seconds)
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
        # The metadata is taken now, not later: it must be that of this batch.
        group_metadata = self._consumer.consumer_group_metadata() if self._consumer.memberid() else None
        assigned = self._owned if self._changed else None
        self._changed = False
        return Polled(found, ends, assigned, group_metadata)

    def _failed(self, source: Input, error: KafkaError, offset: int) -> None:
        """Judge what the client reports instead of a record. Raises `Unproven` if it may have given up a partition that
        is read: the client says so once and fetches no more until it is told where to read again.
        """
        fatal = _fatal(error, source.topic)
        if fatal is not None:
            raise fatal
        if source in self._reading and error.code() in UNREADABLE_CODES:
            # No recovery: it would let go of what was fetched before this, and not fetch it again.
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
        """Which inputs cannot be read on, and what to do about it; empty if all can."""
        return self._unreadable.words()

    def leave(self) -> None:
        """Leave the group now; also a static member's partitions move at once. Not so under KIP-848, where only the
        session's end makes a static member leave.
        """
        self._consumer.unsubscribe()
        # It is a poll that sends it: a client that is closed at once says nothing.
        deadline = time.monotonic() + LEAVE_SECONDS
        with suppress(KafkaException):
            while self._consumer.memberid() and time.monotonic() < deadline:
                self._consumer.poll(0.05)

    def close(self) -> None:
        """Close the client. A static member keeps its partitions until the session timeout, so that a restart in place
        moves nothing.
        """
        # A rebalance that the client finds while it closes makes it wait for itself without end: it is served now. One
        # that comes in between is left to the watchdog.
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
        # In read_committed the broker answers only after pending transactions are settled; it may take their whole
        # timeout.
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
    """Return the headers of a message; the client gives a list of pairs, whatever its annotation says.

    A header whose name is not UTF-8 makes the client raise, though it has the list: it is asked for it again. Where the
    name should be there is nothing then, not even None, so that to touch it ends the process; the garbage collector's
    view tells. Such a header is nobody's that we know, and its name is lost.

    `message.headers()` would not do: once it is hot, the interpreter calls it without looking for an error, which then
    comes up in any other call.
    """
    try:
        return _headers(message)  # type: ignore[no-any-return]
    except (SystemError, UnicodeDecodeError):
        found = _headers(message)
        return [(pair[0] if len(gc.get_referents(pair)) == 2 else NAMELESS, pair[1]) for pair in found or ()]


def _fatal(error: KafkaError, topic: str = "") -> Fenced | Misconfigured | KafkaUnavailable | None:
    if error.fatal() or error.code() in FATAL:
        return Fenced(
            f"the group has given this worker's group.instance.id to another client: {error.name()}: {error.str()}"
        )
    if error.code() == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
        return KafkaUnavailable(
            "the group has members of another kind, and lets us in when they are gone: another program, or workers "
            f"with another GROUP_PROTOCOL ({error.name()}: {error.str()})"
        )
    if error.code() in SET_UP:
        return Misconfigured(f"{SET_UP[error.code()]} ({error.name()}: {error.str()})")
    if error.code() == KafkaError._AUTHENTICATION:
        return NotLetIn(denial(error))
    return not_permitted(error, topic)
