"""A producer of records of any bytes: the binding takes no header whose name is not text, librdkafka does.

It is the librdkafka of the confluent-kafka wheel, reached by ctypes. Names and numbers are those of its src/rdkafka.h.
"""

import ctypes
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import cimpl

_lib = ctypes.CDLL(cimpl.__file__)
"""A lookup in the binding finds the symbols of the librdkafka that it was linked with, wherever the wheel has it."""

_c, _p, _i, _n = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t


def _function(name: str, result: Any, *arguments: Any) -> Any:
    found = getattr(_lib, f"rd_kafka_{name}")
    found.restype, found.argtypes = result, arguments
    return found


_conf_new = _function("conf_new", _p)
_conf_set = _function("conf_set", _i, _p, _c, _c, _c, _n)
_new = _function("new", _p, _i, _p, _c, _n)
_destroy = _function("destroy", None, _p)
_headers_new = _function("headers_new", _p, _n)
_headers_destroy = _function("headers_destroy", None, _p)
_header_add = _function("header_add", _i, _p, _c, ctypes.c_ssize_t, _c, ctypes.c_ssize_t)
_producev = _function("producev", _i, _p)  # and pairs of a kind and its values, ended by 0
_poll = _function("poll", _i, _p, _i)
_flush = _function("flush", _i, _p, _i)
_queued = _function("outq_len", _i, _p)
_name = _function("err2name", _c, _i)

_PRODUCER = 0
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
        error, configuration = ctypes.create_string_buffer(512), _p(_conf_new())
        for name, value in told.items():
            if _conf_set(configuration, name.encode(), value.encode(), error, 512) != 0:
                raise ValueError(error.value.decode())
        self._client = _p(_new(_PRODUCER, configuration, error, 512))
        if self._client.value is None:
            raise ValueError(error.value.decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _destroy(self._client)

    def send(self, record: Raw) -> None:
        """Put a record into the queue, and wait while that is full."""
        words: list[Any] = [_i(_TOPIC), _c(record.topic.encode()), _i(_PARTITION), ctypes.c_int32(record.partition)]
        words += [_i(_FLAGS), _i(_COPY)]
        words += [_i(_VALUE), _c(record.value), _n(len(record.value or b""))]
        words += [_i(_KEY), _c(record.key), _n(len(record.key or b""))]
        while True:
            headers = _p(_headers_new(len(record.headers)))
            for name, value in record.headers:
                _header_add(headers, name, len(name), value, -1 if value is None else len(value))
            code = _producev(self._client, *words, _i(_HEADERS), headers, _i(_END))
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
