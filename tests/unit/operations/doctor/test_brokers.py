"""The verdicts on partitions, on the settings of brokers, and on their disks."""

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from shared.errors import KafkaUnavailable, Misconfigured
from shared.operations.doctor import brokers
from shared.operations.doctor.brokers import allowed, disks, not_shown, replicated
from shared.settings import Settings

SETTINGS = Settings.model_validate({"kafka_bootstrap_servers": "a:1", "database_url": "x"})
BROKER = {
    "transaction.max.timeout.ms": "900000",
    "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000",
    "offsets.retention.minutes": "10080",
    "unclean.leader.election.enable": "false",
}


def partition(leader: int = 1, replicas: tuple[int, ...] = (1, 2, 3), isrs: tuple[int, ...] = (1, 2, 3)) -> Any:
    return SimpleNamespace(leader=leader, replicas=list(replicas), isrs=list(isrs))


@pytest.mark.parametrize(
    ("one", "verdicts", "words"),
    [
        (partition(), ["ok"], "has its leader"),
        (partition(leader=-1, isrs=(2,)), ["fault", "warning"], "offline, without a leader: t[0]"),
        (partition(isrs=(1, 3)), ["warning"], "t[0] (broker 2)"),
        (partition(replicas=(1,), isrs=(1,)), ["warning", "ok"], "one replica"),
    ],
)
def test_partitions(one: Any, verdicts: list[str], words: str) -> None:
    cluster: Any = SimpleNamespace(topics={"t": SimpleNamespace(partitions={0: one})})
    found = list(replicated(cluster, ["t"]))
    assert [each.verdict for each in found] == verdicts
    assert words in found[0].seen


@pytest.mark.parametrize(
    ("more", "verdict", "words"),
    [
        ({}, "ok", "allow"),
        ({"transaction.max.timeout.ms": "10000"}, "fault", "TRANSACTION_TIMEOUT_MS=12000 is above"),
        ({"group.min.session.timeout.ms": "6001"}, "fault", "SESSION_TIMEOUT_MS=6000 is not within"),
        ({"group.max.session.timeout.ms": "5000"}, "fault", "SESSION_TIMEOUT_MS=6000 is not within"),
        ({"offsets.retention.minutes": "60"}, "warning", "after 1 h without a worker"),
        ({"unclean.leader.election.enable": "true"}, "warning", "a replica that lagged may lead"),
        ({"transaction.max.timeout.ms": None}, "ok", "allow"),
    ],
)
def test_what_brokers_allow(more: dict[str, str | None], verdict: str, words: str) -> None:
    (found,) = allowed({**BROKER, **more}, SETTINGS)
    assert (found.verdict, words in found.seen) == (verdict, True), found


GB = 10**9


@pytest.mark.parametrize(
    ("directory", "verdict"),
    [
        ({"total_bytes": 100 * GB, "usable_bytes": 50 * GB}, "ok"),
        ({"total_bytes": 100 * GB, "usable_bytes": 10 * GB}, "warning"),
        ({"total_bytes": 100 * GB, "usable_bytes": 1 * GB}, "fault"),
        ({"total_bytes": -1, "usable_bytes": -1}, "unknown"),
        ({"error_code": 56, "total_bytes": -1, "usable_bytes": -1}, "fault"),
    ],
)
def test_disks(directory: dict[str, object], verdict: str) -> None:
    (found,) = disks(1, [{"error_code": 0, "log_dir": "/kafka\x1b", **directory}])
    assert found.verdict == verdict
    assert found.seen.isprintable()


def test_a_user_who_may_not_see_disks_or_settings_gets_no_verdict() -> None:
    (found,) = disks(1, [])
    assert found.verdict == "unknown"
    hidden = not_shown("the settings", KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "on the topic")
    assert (hidden.verdict, "DESCRIBE_CONFIGS on the topic" in str(hidden.mend)) == ("unknown", True)
    assert not_shown("the settings", KafkaError(KafkaError._TIMED_OUT), "").verdict == "unknown"


def case(**cluster: object) -> Any:
    def list_topics(timeout: float) -> Any:
        if not cluster:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(cluster_id="c", **cluster)

    settings = SimpleNamespace(kafka_sasl_username="shop")
    return SimpleNamespace(settings=settings, service=None), SimpleNamespace(list_topics=list_topics)


def connection(monkeypatch: pytest.MonkeyPatch, admin: Any, of: Any) -> list[str]:
    def make(*_: object) -> Any:
        if isinstance(admin, Exception):
            raise admin
        return admin

    monkeypatch.setattr("shared.kafka.access.admin", make)
    return [one.verdict for one in brokers.connection(of)]


def test_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    of, admin = case(brokers={1: None})
    assert connection(monkeypatch, admin, of) == ["ok"]
    of, admin = case()
    assert connection(monkeypatch, admin, of) == ["fault"]
    assert connection(monkeypatch, Misconfigured("denied"), of) == ["fault"]
    assert connection(monkeypatch, KafkaUnavailable("away"), of) == ["fault"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Misconfigured("denied"), "correct KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_*"),
        (KafkaUnavailable("no broker answers"), "take connections and do not answer"),
    ],
)
def test_who_does_not_answer_has_not_refused_us(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("shared.kafka.access.admin", refuse)
    (found,) = brokers.connection(case()[0])
    assert words in str(found.mend)


def test_brokers_that_name_an_address_that_leads_nowhere() -> None:
    named = SimpleNamespace(host="kafka.invalid", port=9092)
    of: Any = SimpleNamespace(cluster=SimpleNamespace(brokers={3: named}))
    (found,) = brokers.listeners(of)
    assert found.verdict == "fault"
    assert "broker 3 at kafka.invalid:9092: the name kafka.invalid does not resolve" in found.seen
    assert "advertised.listeners" in str(found.mend)


def quorum(leader: int, **caught_up: int) -> dict[str, Any]:
    voters = [{"replica_id": int(name[1:]), "last_caught_up_timestamp": at} for name, at in caught_up.items()]
    return {"leader_id": leader, "current_voters": voters}


NOW = 1_796_000_000_000


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (quorum(2, c1=NOW - 400, c2=NOW, c3=NOW - 500), "ok", "controller 2 leads, of [1, 2, 3]"),
        (quorum(1, c1=NOW), "ok", "controller 1 leads, of [1]"),
        (quorum(1, c1=NOW, c2=NOW - 60_000), "warning", "2 does not follow"),
        (quorum(1, c1=NOW, c2=-1), "warning", "2 does not follow"),
        (quorum(-1), "fault", "no controller leads"),
    ],
)
def test_controllers(found: dict[str, Any], verdict: str, words: str) -> None:
    told = brokers.led(found)
    assert (told.verdict, words in told.seen) == (verdict, True), told
