"""Settings that are unsafe, or take away what another one promises."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.operations.doctor import certificates, settings
from shared.operations.doctor.case import Case
from shared.operations.doctor.findings import Finding
from shared.settings import Settings
from tests.faults import trail

AWAY = {"kafka_bootstrap_servers": "kafka.example:9092"}
CLEAN = {
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "database_url": "postgresql://me:pw@127.0.0.1/{service}",
    "api_tokens": f"shop:orders:read:{'0' * 64}",
}


def case(**more: object) -> Case:
    return Case(trail.container(trail.make("order"), Settings.model_validate({**CLEAN, **more})))


def bad(found: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(one.verdict, one.seen) for one in found if one.verdict != "ok"]


def test_nothing_is_said_against_a_machine_of_its_own() -> None:
    for check in (settings.complete, settings.safety, settings.agreement, settings.libraries, certificates.own):
        assert [one.verdict for one in check(case())] == ["ok"], check


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (AWAY, "events go to kafka.example:9092 in the clear"),
        (
            {
                **AWAY,
                "kafka_security_protocol": "SASL_PLAINTEXT",
                "kafka_sasl_username": "me",
                "kafka_sasl_password": "pw",
            },
            "events and the password go to",
        ),
        ({"database_url": "postgresql://me:pw@db.example/x"}, "with sslmode=prefer a session to db.example:5432"),
        ({"database_url": "postgresql://me:pw@db.example/x?sslmode=require"}, "with sslmode=require"),
        ({"api_auth": "off"}, "API_AUTH=off"),
        ({"debug_no_timeouts": True}, "DEBUG_NO_TIMEOUTS"),
    ],
)
def test_what_is_unsafe(more: dict[str, object], words: str) -> None:
    ((verdict, seen),) = bad(settings.safety(case(**more)))
    assert (verdict, words in seen) == ("warning", True)
    assert "pw" not in seen


def test_a_session_that_is_verified_is_safe() -> None:
    assert bad(settings.safety(case(database_url="postgresql://me:pw@db.example/x?sslmode=verify-full"))) == []


@pytest.mark.parametrize(
    ("more", "verdict", "words"),
    [
        ({"handler_seconds_max": 20, "transaction_timeout_ms": 5_000}, "warning", "handlers get 5 s"),
        ({"parked_hours_max": 168, "inbox_retention_hours": 168}, "warning", "PARKED_HOURS_MAX=168 is not below"),
        ({"retry_seconds_max": 7_200, "parked_hours_max": 1}, "warning", "no record is tried twice"),
        ({"group_protocol": "consumer"}, "warning", "experimental"),
        (
            {"migration_database_url": "postgresql://owner:pw@127.0.0.1/other"},
            "fault",
            "DATABASE_URL leads to database order, MIGRATION_DATABASE_URL to other",
        ),
        ({"api_tokens": ""}, "warning", "without a token no one can call this API"),
        ({"api_tokens": "nonsense"}, "warning", "API_TOKENS: entry 1 must be"),
    ],
)
def test_what_does_not_agree(more: dict[str, object], verdict: str, words: str) -> None:
    ((found, seen),) = bad(settings.agreement(case(**more)))
    assert (found, words in seen) == (verdict, True), seen


def test_variables_of_libpq_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGPASSWORD", "pw")
    assert bad(settings.complete(case())) == [
        ("warning", "ignored, since only DATABASE_URL counts: PGPASSWORD, PGSSLMODE")
    ]


def test_an_old_client_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confluent_kafka.libversion", lambda: ("2.3.0", 0x020300FF))
    ((verdict, seen),) = bad(settings.libraries(case()))
    assert (verdict, "librdkafka 2.3.0 is too old" in seen) == ("fault", True)


def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    made = case()
    made.container = SimpleNamespace(routes=lambda: "a:b", calls=lambda: (object,))
    ((verdict, seen),) = bad(settings.libraries(made))
    assert (verdict, seen) == ("warning", "not installed here: the extras api, calls")


def test_a_certificate_whose_key_is_no_key(tmp_path: Path) -> None:
    for name in ("me.pem", "me.key"):
        (tmp_path / name).write_text("nonsense")
    made = case(
        kafka_security_protocol="SSL",
        kafka_ssl_certificate_location=tmp_path / "me.pem",
        kafka_ssl_key_location=tmp_path / "me.key",
    )
    assert [verdict for verdict, _ in bad(certificates.own(made))] == ["fault"]


def destinations(*urls: str) -> list[tuple[str, str]]:
    kinds = [
        SimpleNamespace(destination=SimpleNamespace(name=f"bank{n}", url=lambda _, url=url: url))
        for n, url in enumerate(urls)
    ]
    made: Any = SimpleNamespace(container=SimpleNamespace(calls=lambda: kinds), settings=None)
    return bad(settings.destinations(made))


def test_a_third_party_that_is_out_of_reach() -> None:
    assert destinations() == []
    found = destinations("http://nowhere.invalid", "nonsense")
    assert [(verdict, seen[:40]) for verdict, seen in found] == [
        ("warning", "bank0 at nowhere.invalid:80: the name no"),
        ("fault", "bank1: its URL names no host, or is neit"),
    ]
