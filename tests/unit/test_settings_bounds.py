"""Both bounds of every number are accepted by its users, and a value one beyond is refused by name."""

import math
import os
import socket
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from confluent_kafka import Consumer, Producer
from pydantic.fields import FieldInfo

from shared.errors import Misconfigured
from shared.http import serving
from shared.kafka import consumer, producer
from shared.settings import Settings, load
from tests.faults import trail

pytestmark = pytest.mark.usefixtures("bare_environment")
NUMBERS = {name: field for name, field in Settings.model_fields.items() if field.annotation in (int, float)}


def ends(field: FieldInfo) -> tuple[Any, Any]:
    """Return the least and the largest value allowed."""
    least, most = None, None
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                least = value
            case annotated_types.Gt(gt=value):
                least = math.nextafter(float(value), math.inf)  # type: ignore[arg-type]
            case annotated_types.Le(le=value):
                most = value
            case _:
                pass
    return least, most


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_two_ends_and_nothing_beyond(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    least, most = ends(NUMBERS[name])
    assert None not in (least, most), "a setting without a bound ends in a traceback of whoever is told of it"
    for good in (least, most):
        monkeypatch.setenv(name.upper(), str(good))
        assert getattr(load(), name) == good
    step = 1 if NUMBERS[name].annotation is int else 0.001
    for wrong in (least - step, most + step, "inf", "nan", "-1", "9" * 400):
        monkeypatch.setenv(name.upper(), str(wrong))
        with pytest.raises(Misconfigured, match=name.upper()):
            load()


@pytest.mark.parametrize("end", [0, 1], ids=["least", "most"])
@pytest.mark.parametrize("others", [0, 1, None], ids=["others least", "others most", "others default"])
@pytest.mark.parametrize("name", [*NUMBERS, None])
def test_the_client_of_kafka_bears_both_ends(
    monkeypatch: pytest.MonkeyPatch, name: str | None, others: int | None, end: int
) -> None:
    """Each is tried alone, and with the others at a bound: some bounds are between two settings."""
    for other, field in NUMBERS.items():
        if others is not None:
            monkeypatch.setenv(other.upper(), str(ends(field)[others]))
    if name is not None:
        monkeypatch.setenv(name.upper(), str(ends(NUMBERS[name])[end]))
    settings = load()
    made = trail.make("bounds").service

    Consumer(consumer.configuration(settings, made, 0)).close()
    Producer(producer.configuration(settings, made, 0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("PARTITIONS=8\n".encode("utf-16"), "is not UTF-8 text; save it as UTF-8"),
        (b"PARTITIONS=8\0\n", "is not UTF-8 text"),
        (b"HTTP_HOST=\xff\n", "is not UTF-8 text"),
        (None, "is a folder"),
    ],
)
@pytest.mark.parametrize("name", [".env", ".env.local"])
def test_a_file_that_holds_no_settings_is_refused(name: str, content: bytes | None, reason: str) -> None:
    if content is None:
        Path(name).mkdir()
    else:
        Path(name).write_bytes(content)

    with pytest.raises(Misconfigured, match=rf"^{name}: {reason}"):
        load()


def test_a_file_that_nobody_may_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:  # root may read everything
        raise PermissionError(13, "Permission denied")

    Path(".env").touch()
    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(Misconfigured, match=r"^\.env: cannot be read: Permission denied"):
        load()


@pytest.mark.parametrize("host", ["127.0.0.1", "x" * 1_000, "a..b", " "])
def test_an_address_that_is_taken_or_none_is_refused(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=r"HTTP_HOST, HTTP_PORT: cannot listen on"):
            serving.listening(host, port)
