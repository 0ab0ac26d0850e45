"""The verdicts on what a user may do with topics, group and transactional ids."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin._acl import AclOperation
from kafka.errors import KafkaTimeoutError, TransactionalIdAuthorizationFailedError, TransactionalIdNotFoundError

from shared.operations.doctor import rights
from shared.operations.doctor.rights import permitted
from tests.faults import trail

SERVICE = trail.make("t").service
READ, WRITE, ALL, DESCRIBE = AclOperation.READ, AclOperation.WRITE, AclOperation.ALL, AclOperation.DESCRIBE
WORKER = {"t.asked": [READ], "t.outbox": [READ], "t.told": [WRITE], "t.dead-letters": [WRITE]}
OPERATOR = {name: [READ] for name in WORKER}


@pytest.mark.parametrize(
    ("granted", "verdicts"),
    [
        (WORKER, ["ok"]),
        ({name: [ALL] for name in WORKER}, ["ok"]),
        ({**WORKER, "t.asked": [DESCRIBE]}, ["fault"]),
        ({**WORKER, "t.told": [READ]}, ["fault"]),
        ({**WORKER, "t.told": [DESCRIBE], "t.dead-letters": [DESCRIBE]}, ["fault"]),
        (OPERATOR, ["warning"]),
        ({**OPERATOR, "t.outbox": [DESCRIBE]}, ["fault", "warning"]),
        ({**WORKER, "t.told": None}, ["unknown", "ok"]),
        ({}, []),
    ],
)
def test_rights_on_topics(granted: dict[str, Any], verdicts: list[str]) -> None:
    described: Any = {name: SimpleNamespace(authorized_operations=found) for name, found in granted.items()}
    assert [one.verdict for one in permitted(SERVICE, described)] == verdicts


def case(group: Any = None, described: dict[str, Any] | None = None) -> Any:
    answer: Future[Any] = Future()
    if isinstance(group, int):
        answer.set_exception(KafkaException(KafkaError(group)))
    else:
        answer.set_result(SimpleNamespace(authorized_operations=group))
    admin = SimpleNamespace(describe_consumer_groups=lambda names, **_: dict.fromkeys(names, answer))
    return SimpleNamespace(admin=admin, service=SERVICE, described=described or {}, settings=None)


@pytest.mark.parametrize(
    ("group", "verdict"),
    [
        ([READ, DESCRIBE], "ok"),
        ([DESCRIBE], "fault"),
        (None, "unknown"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "fault"),
        (KafkaError.COORDINATOR_NOT_AVAILABLE, "unknown"),
    ],
)
def test_rights_on_the_group(monkeypatch: pytest.MonkeyPatch, group: Any, verdict: str) -> None:
    monkeypatch.setattr("shared.kafka.topics.ADMIN_SECONDS", 0.1)
    assert rights._on_group(case(group)).verdict == verdict


@pytest.mark.parametrize(
    ("error", "granted", "verdict"),
    [
        (None, WORKER, "ok"),
        (TransactionalIdNotFoundError(), WORKER, "ok"),
        (TransactionalIdAuthorizationFailedError(), WORKER, "fault"),
        (TransactionalIdAuthorizationFailedError(), OPERATOR, "warning"),
        (KafkaTimeoutError(), WORKER, "unknown"),
    ],
)
def test_rights_on_transactional_ids(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, granted: dict[str, Any], verdict: str
) -> None:
    def describe(names: list[str]) -> None:
        assert names == ["t-0"]
        if error is not None:
            raise error

    @contextmanager
    def client(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(describe_transactions=describe)

    monkeypatch.setattr("shared.kafka.open_transactions.client", client)
    monkeypatch.setattr(rights, "ANSWER_SECONDS", 0.1)
    described = {name: SimpleNamespace(authorized_operations=found) for name, found in granted.items()}
    assert rights._on_transactional_ids(case(described=described)).verdict == verdict
