"""The librdkafka of the confluent-kafka wheel, reached by ctypes, for what the binding does not show.

Names and numbers are those of its src/rdkafka.h.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

from confluent_kafka import cimpl

_lib = ctypes.CDLL(cimpl.__file__)
"""A lookup in the binding finds the symbols of the librdkafka that it was linked with, wherever the wheel has it."""

TEXT, POINTER, INT, SIZE = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t

ERROR_BYTES = 512
"""Room for an error's message."""

_PRODUCER = 0


def function(name: str, result: Any, *arguments: Any) -> Any:
    """Return `rd_kafka_<name>`, with the types of its result and arguments; more arguments may follow."""
    found = getattr(_lib, f"rd_kafka_{name}")
    found.restype, found.argtypes = result, arguments
    return found


_conf_new = function("conf_new", POINTER)
_conf_set = function("conf_set", INT, POINTER, TEXT, TEXT, TEXT, SIZE)
_new = function("new", POINTER, INT, POINTER, TEXT, SIZE)
destroy = function("destroy", None, POINTER)
"""End a client."""


def producer(configuration: Mapping[str, str]) -> ctypes.c_void_p:
    """Make a client that can produce; the caller must `destroy` it. Raises `ValueError`."""
    error, settings = ctypes.create_string_buffer(ERROR_BYTES), POINTER(_conf_new())
    for name, value in configuration.items():
        if _conf_set(settings, name.encode(), value.encode(), error, ERROR_BYTES) != 0:
            raise ValueError(error.value.decode())
    client = POINTER(_new(_PRODUCER, settings, error, ERROR_BYTES))
    if client.value is None:
        raise ValueError(error.value.decode())
    return client
