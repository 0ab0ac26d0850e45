"""Kafka's framing, read as far as tests need it: a request's kind, its sender, and its reply.

Every request and reply begins with its length in four bytes. The layout of the headers, and where a request names its
transactional.id, are in https://kafka.apache.org/protocol.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.wire.parting import Garbage, Part, Passage

FRAME_BYTES_MAX = 16_000_000
"""Far above what any test sends, and far below a length that is really four letters of another protocol."""
HEADER_BYTES = 8
"""Api key, version and correlation id."""

APIS = {
    0: "Produce",
    1: "Fetch",
    2: "ListOffsets",
    3: "Metadata",
    8: "OffsetCommit",
    9: "OffsetFetch",
    10: "FindCoordinator",
    11: "JoinGroup",
    12: "Heartbeat",
    13: "LeaveGroup",
    14: "SyncGroup",
    18: "ApiVersions",
    22: "InitProducerId",
    24: "AddPartitionsToTxn",
    25: "AddOffsetsToTxn",
    26: "EndTxn",
    28: "TxnOffsetCommit",
    32: "DescribeConfigs",
    60: "DescribeCluster",
    68: "ConsumerGroupHeartbeat",
}
"""The APIs that the clients here use."""

TRANSACTIONAL = {
    "Produce": range(3, 9),
    "InitProducerId": range(2),
    "AddPartitionsToTxn": range(3),
    "AddOffsetsToTxn": range(3),
    "EndTxn": range(3),
    "TxnOffsetCommit": range(3),
}
"""Versions whose body begins with the transactional.id: a string after two bytes of length."""
COMPACT = {
    "Produce": range(9, 14),
    "InitProducerId": range(2, 7),
    "AddPartitionsToTxn": range(3, 4),
    "AddOffsetsToTxn": range(3, 5),
    "EndTxn": range(3, 6),
    "TxnOffsetCommit": range(3, 6),
}
"""The same for a compact string, after tagged fields in the header."""

PRODUCE_BY_ID = 13
"""The first version of Produce that has the ids of topics instead of their names."""

ADDRESSES = frozenset({"Metadata", "FindCoordinator", "DescribeCluster"})
"""Their replies tell a client where the brokers are."""


@dataclass(frozen=True, eq=False)
class KafkaRequest(Part):
    """One request."""

    api: str
    version: int
    correlation: int
    client_id: str
    transactional_id: str | None
    """None also if this API does not begin with one."""
    commits: bool | None
    """Whether an EndTxn commits; None for other requests."""

    @property
    def name(self) -> str:
        """The api, and what an EndTxn asks for."""
        return self.api if self.commits is None else f"{self.api}({'commit' if self.commits else 'abort'})"


class _Reader:
    """Reads the fields of one frame in their order. Raises `Garbage` where it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self._data):
            raise Garbage(f"a frame of {len(self._data)} bytes ends within a field of {count}")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), signed=True)

    def varint(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Garbage("a number of more than five bytes")

    def string(self) -> str | None:
        length = self.number(2)
        return None if length == -1 else self.take(length).decode(errors="replace")

    def compact_string(self) -> str | None:
        length = self.varint()
        return None if length == 0 else self.take(length - 1).decode(errors="replace")

    def tagged_fields(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())


def read_request(frame: bytes) -> KafkaRequest:
    """Read a whole frame, its length included. Raises `Garbage`."""
    reader = _Reader(frame)
    reader.take(4)
    key, version, correlation = reader.number(2), reader.number(2), reader.number(4)
    client_id = reader.string() or ""
    api = APIS.get(key, f"api {key}")
    transactional_id = commits = None
    if version in TRANSACTIONAL.get(api, ()):
        transactional_id = reader.string()
    elif version in COMPACT.get(api, ()):
        reader.tagged_fields()
        transactional_id = reader.compact_string()
    if api == "EndTxn" and transactional_id is not None:
        reader.take(8 + 2)  # the producer's id and epoch
        commits = reader.number(1) != 0
    return KafkaRequest(frame, api, version, correlation, client_id, transactional_id, commits)


def topic_of(request: KafkaRequest) -> tuple[int, bytes]:
    """Return where in its frame a Produce names its first topic, and the name. Raises `Garbage`."""
    if request.version >= PRODUCE_BY_ID:
        raise Garbage(f"Produce {request.version} has no names of topics")
    reader = _Reader(request.data)
    reader.take(4 + HEADER_BYTES)
    reader.string()
    compact = request.version in COMPACT["Produce"]
    if compact:
        reader.tagged_fields()
    name = reader.compact_string if compact else reader.string
    name()  # the transactional.id
    reader.take(2 + 4)  # acks and a timeout
    if compact:
        reader.varint()
    else:
        reader.number(4)
    topic = (name() or "").encode()
    return reader.at - len(topic), topic


class Frames:
    """Puts frames together from the network's pieces."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the frames that `data` completes, their lengths included. Raises `Garbage`."""
        self._bytes += data
        while len(self._bytes) >= 4:
            length = int.from_bytes(self._bytes[:4], signed=True)
            if not self._least <= length <= FRAME_BYTES_MAX:
                raise Garbage(f"a frame of {length} bytes; it has {self._least} to {FRAME_BYTES_MAX}")
            if len(self._bytes) < 4 + length:
                return
            frame = bytes(self._bytes[: 4 + length])
            del self._bytes[: 4 + length]
            yield frame


@dataclass
class KafkaTalk:
    """The traffic of one connection, both ways."""

    addresses: dict[bytes, bytes]
    """An address as replies spell it, and the one to put in its place."""
    _asked: Frames = field(default_factory=lambda: Frames(HEADER_BYTES))
    _answered: Frames = field(default_factory=lambda: Frames(4))
    _waiting: dict[int, deque[Passage]] = field(default_factory=dict)

    def requests(self, data: bytes) -> Iterator[KafkaRequest]:
        """Return the requests that `data` completes."""
        return map(read_request, self._asked.feed(data))

    def sent(self, passage: Passage) -> None:
        """Expect a reply to a request that was passed on."""
        assert isinstance(passage.request, KafkaRequest)
        self._waiting.setdefault(passage.request.correlation, deque()).append(passage)

    def replies(self, data: bytes) -> Iterator[tuple[bytes, Passage, bool]]:
        """Return the replies that `data` completes, with the passage that each answers in full."""
        for frame in self._answered.feed(data):
            correlation = int.from_bytes(frame[4:8], signed=True)
            waiting = self._waiting.get(correlation)
            if not waiting:
                raise Garbage(f"a reply to request {correlation}, which nobody sent")
            passage = waiting.popleft()
            if not waiting:
                del self._waiting[correlation]
            assert isinstance(passage.request, KafkaRequest)
            yield self._here(frame) if passage.request.api in ADDRESSES else frame, passage, True

    def _here(self, frame: bytes) -> bytes:
        for there, here in self.addresses.items():
            frame = frame.replace(there, here)
        return frame


def spelled(host: str, port: int) -> bytes:
    """Spell an address as every version of every reply does: the host's bytes, then the port in four."""
    return host.encode() + port.to_bytes(4)
