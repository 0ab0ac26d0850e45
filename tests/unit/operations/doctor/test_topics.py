"""The verdicts on the settings of topics."""

from types import SimpleNamespace
from typing import Any

import pytest

from shared.operations.doctor.findings import ok, warning
from shared.operations.doctor.topics import judged, together
from shared.settings import Settings
from tests.faults import trail

SERVICE = trail.make("t").service
SETTINGS = Settings.model_validate({"kafka_bootstrap_servers": "a:1", "database_url": "x"})
GOOD = {
    "min.insync.replicas": "2",
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "retention.ms": "604800000",
}


def topic(replicas: int = 3, insync: int = 3) -> Any:
    return SimpleNamespace(partitions=[SimpleNamespace(replicas=[0] * replicas, isr=[0] * insync)])


def verdicts(name: str, values: dict[str, str | None], described: Any = None) -> list[tuple[str, str]]:
    found = judged(name, described or topic(), {**GOOD, **values}, SERVICE, SETTINGS)
    return [(one.verdict, one.seen) for one in found]


@pytest.mark.parametrize("name", ["t.asked", "t.told", "t.outbox", "t.dead-letters"])
def test_nothing_is_said_against_three_replicas_kept_for_a_week(name: str) -> None:
    assert verdicts(name, {}) == []


@pytest.mark.parametrize(
    ("name", "values", "described", "verdict", "words"),
    [
        ("t.told", {"min.insync.replicas": "3"}, topic(3, 2), "fault", "nothing can be written to it"),
        ("t.told", {"min.insync.replicas": "2"}, topic(1, 1), "fault", "nothing can be written to it"),
        ("t.told", {"min.insync.replicas": "3"}, topic(), "warning", "no broker may ever be away"),
        ("t.told", {"min.insync.replicas": "1"}, topic(), "warning", "lost with it"),
        ("t.told", {"cleanup.policy": "compact"}, topic(), "warning", "`audit` takes them for never published"),
        ("t.dead-letters", {"cleanup.policy": "compact,delete"}, topic(), "warning", "hides records"),
        ("t.asked", {"cleanup.policy": "compact,delete"}, topic(), "warning", "before this service has read them"),
        ("t.told", {"max.message.bytes": "900000"}, topic(), "warning", "too little for EVENT_BYTES_MAX=900000"),
        ("t.asked", {"retention.ms": "3600000"}, topic(), "warning", "are kept for 1 h only"),
        (
            "t.asked",
            {"retention.ms": "-1"},
            topic(),
            "warning",
            "are kept for ever, and the inbox knows them for 168 h",
        ),
        ("t.asked", {"retention.ms": "1209600000"}, topic(), "warning", "are kept for 336 h, and the inbox"),
    ],
)
def test_what_is_told(name: str, values: dict[str, str | None], described: Any, verdict: str, words: str) -> None:
    ((found, seen),) = verdicts(name, values, described)
    assert (found, words in seen) == (verdict, True), seen


def test_one_replica_is_no_matter_of_min_insync() -> None:
    """`kafka replication` tells it."""
    assert verdicts("t.told", {"min.insync.replicas": "1"}, topic(1, 1)) == []


def test_what_is_not_known_is_not_judged() -> None:
    assert verdicts("t.asked", dict.fromkeys(GOOD)) == []


def test_what_is_the_same_of_several_topics_is_told_once() -> None:
    found = list(together([("a", ok("fine")), ("b", warning("bad", "mend")), ("c", ok("fine"))]))
    assert [(one.verdict, one.seen) for one in found] == [("ok", "a, c: fine"), ("warning", "b: bad")]
