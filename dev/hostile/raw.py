"""A producer of records of any bytes: the binding takes no header whose name is not text, librdkafka does."""

import ctypes
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from dev.librdkafka import INT, POINTER, SIZE, TEXT, destroy, function, producer

_headers_new = function("headers_new", POINTER, SIZE)
_headers_destroy = function("headers_destroy", None, POINTER)
_header_add = function("header_add", INT, POINTER, TEXT, ctypes.c_ssize_t, TEXT, ctypes.c_ssize_t)
_producev = function("producev", INT, POINTER)  # and pairs of a kind and its values, ended by 0
_poll = function("poll", INT, POINTER, INT)
_flush = function("flush", INT, POINTER, INT)
_queued = function("outq_len", INT, POINTER)
_name = function("err2name", TEXT, INT)

_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADERS = 0, 1, 3, 4, 5, 7, 10
_COPY = 2
_ANY_PARTITION = -1
_QUEUE_FULL = -184

FLUSH_MS = 60_000


class Raw(NamedTuple):
    """One record, as bytes."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    partition: int = _ANY_PARTITION


class RawProducer:
    """Sends records of any bytes. A record that the broker refuses is lost without a word, as a hostile client's is."""

    def __init__(self, bootstrap: str, more: Mapping[str, str] | None = None) -> None:
        told = {
            "bootstrap.servers": bootstrap,
            "partitioner": "consistent",
            "message.max.bytes": "100000000",
            "linger.ms": "20",
            "log_level": "0",
            **(more or {}),
        }
        self._client = producer(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        destroy(self._client)

    def send(self, record: Raw) -> None:
        """Put a record into the queue, and wait while that is full."""
        words: list[Any] = [INT(_TOPIC), TEXT(record.topic.encode()), INT(_PARTITION), ctypes.c_int32(record.partition)]
        words += [INT(_FLAGS), INT(_COPY)]
        words += [INT(_VALUE), TEXT(record.value), SIZE(len(record.value or b""))]
        words += [INT(_KEY), TEXT(record.key), SIZE(len(record.key or b""))]
        while True:
            headers = POINTER(_headers_new(len(record.headers)))
            for name, value in record.headers:
                _header_add(headers, name, len(name), value, -1 if value is None else len(value))
            code = _producev(self._client, *words, INT(_HEADERS), headers, INT(_END))
            if code == 0:  # the headers are the client's now
                return
            _headers_destroy(headers)
            if code != _QUEUE_FULL:
                raise ValueError(f"{_name(code).decode()}: {len(record.value or b'')} bytes")
            _poll(self._client, 100)

    def flush(self) -> None:
        """Wait until the broker has answered for everything. Raises `TimeoutError`."""
        _flush(self._client, FLUSH_MS)
        if left := _queued(self._client):
            raise TimeoutError(f"{left} records were not acknowledged")
