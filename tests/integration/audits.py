"""An audit's answer, and the damage that it must find: records that no worker has produced."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaException, Message, Producer

from shared.testing import SECONDS_MAX
from tests.integration.tallies import Tallies


class Answer(NamedTuple):
    """The command's output, and its exit code."""

    code: int
    facts: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings of each kind found."""
        return {kind: count for kind, count in self.facts["counts"].items() if count}

    @property
    def accepted(self) -> dict[str, int]:
        """The number of findings of each kind that a decision has accepted."""
        return {kind: count for kind, count in self.facts["accepted"].items() if count}

    @property
    def findings(self) -> list[tuple[Any, ...]]:
        """The kind, place, event id, lane and position of each finding."""
        names = ("kind", "where", "event_id", "lane", "position")
        return [tuple(finding[name] for name in names) for finding in self.facts["findings"]]

    @property
    def details(self) -> list[str]:
        """The details of each finding."""
        return [finding["detail"] for finding in self.facts["findings"]]


def audit(tallies: Tallies, capsys: pytest.CaptureFixture[str], line: str = "audit --json") -> Answer:
    """Audit, and check that the exit code agrees with the output."""
    capsys.readouterr()
    code = tallies.run(line)
    captured = capsys.readouterr()
    assert code in (0, 1), captured.err
    facts = json.JSONDecoder().raw_decode(captured.out, captured.out.index("{\n"))[0]
    answer = Answer(code, facts)
    assert code == (1 if answer.counts else 0)
    assert facts["clean"] is (code == 0)
    return answer


def now() -> str:
    """Return the time as the library's records have it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def ours(tallies: Tallies, event_id: str, decided: str | None = None) -> dict[str, str]:
    """Return the headers that the service's worker gives an event."""
    return {
        "ce_specversion": "1.0",
        "ce_source": tallies.name,
        "ce_id": event_id,
        "ce_type": "Told.v1",
        "ce_time": decided or now(),
    }


def produce(
    tallies: Tallies, headers: Mapping[str, str], *, key: str = "k", topic: str | None = None, partition: int = 0
) -> int:
    """Publish something in the service's name with a plain producer; return its offset."""
    offsets: list[int] = []

    def delivered(error: Any, message: Message) -> None:
        assert error is None
        offsets.append(message.offset() or 0)

    producer = Producer({"bootstrap.servers": tallies.settings.kafka_bootstrap_servers, "enable.idempotence": True})
    producer.produce(
        topic or tallies.told.topic,
        b'{"number": 0}',
        key.encode(),
        partition=partition,
        headers=[(name, fact.encode()) for name, fact in headers.items()],
        on_delivery=delivered,
    )
    assert producer.flush(SECONDS_MAX) == 0
    return offsets[0]


@contextmanager
def open_transaction(tallies: Tallies, headers: Mapping[str, str], *, since_seconds: float = 0.0) -> Iterator[Producer]:
    """Keep a transaction open with one record that seems `since_seconds` old. The end aborts it."""
    producer = Producer(
        {
            "bootstrap.servers": tallies.settings.kafka_bootstrap_servers,
            "transactional.id": f"{tallies.name}-plain",
            "transaction.timeout.ms": 60_000,
        }
    )
    producer.init_transactions(SECONDS_MAX)
    producer.begin_transaction()
    producer.produce(
        tallies.told.topic,
        b'{"number": 0}',
        b"k",
        partition=0,
        headers=[(name, fact.encode()) for name, fact in headers.items()],
        timestamp=int((time.time() - since_seconds) * 1_000),
    )
    assert producer.flush(SECONDS_MAX) == 0
    yield producer
    with suppress(KafkaException):  # the block may have ended it
        producer.abort_transaction(SECONDS_MAX)
