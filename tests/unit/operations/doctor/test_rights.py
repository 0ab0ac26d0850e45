"""The verdicts on what a user may do with the topics."""

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.admin._acl import AclOperation

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
