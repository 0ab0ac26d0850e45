"""The header of a batch as the broker stores it. It is never compressed, so it shows where an unreadable batch ends.

librdkafka exposes no header, so kafka-python fetches the bytes; it need not understand the batch's contents. The format
is that of magic 2, https://kafka.apache.org/documentation/#recordbatch
"""

import struct
from typing import Any, NamedTuple

from ..protocol.ports import Input
from ..settings import Settings
from .open_transactions import ANSWER_MS, client

_HEAD = struct.Struct(">qiibIhi")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta."""

_LENGTH_FROM = 12
"""The length counts the bytes after its own field."""

CODECS = ("no compression", "gzip", "snappy", "lz4", "zstd")
BROKERS_MAX = 100


class Header(NamedTuple):
    """The header of a batch."""

    first: int
    last: int
    """Offset of its last record."""
    size: int
    """Bytes, as stored on the broker."""
    codec: str


def read(settings: Settings, client_id: str, source: Input, offset: int) -> Header | None:
    """Ask the brokers for the batch that holds `offset` of `source`; None if none of them has one in this format there.

    Raises any error of kafka-python. Takes a few seconds at most.
    """
    with client(settings, client_id) as admin:
        for broker in [found["broker_id"] for found in admin.describe_cluster()["brokers"]][:BROKERS_MAX]:
            fetched = admin._manager.run(admin._manager.send, _request(source, offset), broker, ANSWER_MS)
            for topic in fetched.responses:
                for partition in topic.partitions:
                    if partition.error_code == 0 and partition.records:  # any other broker is not its leader
                        return parse(bytes(partition.records))
    return None


def parse(data: bytes) -> Header | None:
    """Read the header at the beginning of `data`."""
    if len(data) < _HEAD.size:
        return None
    first, length, _epoch, magic, _crc, attributes, delta = _HEAD.unpack_from(data)
    if magic != 2:
        return None
    number = attributes & 7
    return Header(first, first + delta, length + _LENGTH_FROM, (*CODECS, *(f"codec {n}" for n in range(5, 8)))[number])


def _request(source: Input, offset: int) -> Any:
    from kafka.protocol.consumer import FetchRequest

    topic = FetchRequest.FetchTopic
    partition = topic.FetchPartition(
        partition=source.partition,
        current_leader_epoch=-1,
        fetch_offset=offset,
        last_fetched_epoch=-1,
        partition_max_bytes=1,  # the first batch comes whole, even if it is larger
    )
    return FetchRequest(
        max_wait_ms=ANSWER_MS // 2,
        min_bytes=1,
        max_bytes=1,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[topic(topic=source.topic, partitions=[partition])],
        forgotten_topics_data=[],
        rack_id="",
        min_version=4,
        max_version=12,
    )
