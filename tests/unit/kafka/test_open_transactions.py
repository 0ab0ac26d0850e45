"""Brokers are asked which producer holds an input back; what those that answer know is reported."""

import gc
import logging
import threading
from datetime import UTC, datetime

import pytest

from dev.servers.places import free_port
from shared.kafka import open_transactions
from shared.kafka.held_back import Held, described
from shared.kafka.open_transactions import Holder, configuration, holders
from shared.protocol.ports import Input
from shared.settings import Settings

SOURCE = Input("shop.events", 3)
PASSWORD = "between you and me"


def settings(**more: object) -> Settings:
    told = {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}", "database_url": "postgresql://nowhere", **more}
    return Settings.model_validate(told)


def test_the_client_gets_what_every_other_client_gets() -> None:
    with_password = settings(
        kafka_bootstrap_servers="one:9092,two:9092",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-256",
        kafka_sasl_username="shop",
        kafka_sasl_password=PASSWORD,
        kafka_ssl_ca_location=__file__,
        kafka_ssl_certificate_location=__file__,
        kafka_ssl_key_location=__file__,
        kafka_ssl_key_password="of the key",
    )
    told = configuration(with_password)
    assert told.pop("bootstrap_servers") == ["one:9092", "two:9092"]
    assert {str(value) for value in told.values()} == set(with_password.kafka().values()) - {"one:9092,two:9092"}
    assert configuration(settings()).keys() == {"bootstrap_servers", "security_protocol"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # kafka-python leaves a socket that did not connect to the GC
def test_when_no_broker_answers_it_says_so_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_transactions, "ANSWER_MS", 200)
    caplog.set_level(logging.DEBUG)
    before = set(threading.enumerate())

    locked = settings(
        kafka_security_protocol="SASL_PLAINTEXT", kafka_sasl_username="shop", kafka_sasl_password=PASSWORD
    )
    found = holders(locked, "shop-held-back", {SOURCE: 17})

    assert "unknown producer (KafkaTimeoutError: " in str(found[SOURCE])
    assert set(threading.enumerate()) <= before
    assert PASSWORD not in caplog.text
    gc.collect()


def test_what_is_unknown_is_told_with_how_to_find_it() -> None:
    held = Held(SOURCE, 17)
    held.holder = Holder(4711, 2, unknown="broker 3: it does not answer")
    assert "shop.events[3] has been held back at offset 17 since " in str(held)
    assert (
        "by an open transaction of producer 4711, epoch 2, whose transactional id is unknown (broker 3: it does not "
        "answer)" in str(held)
    )
    assert "`kafka-transactions.sh describe-producers --topic shop.events --partition 3` names its prod" in str(held)


def test_a_transaction_that_has_ended_elsewhere_is_told_from_one_that_is_open() -> None:
    held = Held(SOURCE, 17)
    held.holder = Holder(4711, 2, "mallory", "Ongoing", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 60)
    assert "since 2026-01-02 03:04:05 UTC by transactional id mallory (producer 4711, epoch 2; Ongoing, " in str(held)
    assert "kafka-transactions.sh" not in str(held)
    held.holder.state = "CompleteAbort"
    assert "since 2026-01-02 03:04:05" not in str(held), "its producer may have begun another one then"
    assert "CompleteAbort: it has ended, and its end was never written here" in str(held)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"ce_source": b"shop", "ce_type": b"Placed.v1", "ce_id": b"17"}, "Placed.v1 17 of shop"),
        ({"ce_source": b"shop", "ce_type": b"Placed.v1"}, "Placed.v1 (without ce_id) of shop"),
        ({"ce_source": b"shop", "ce_type": None, "ce_id": b""}, "an event without ce_type (without ce_id) of shop"),
        ({"ce_type": b"Placed.v1"}, "one without ce_source"),
    ],
)
def test_the_first_record_is_named_by_what_it_has(headers: dict[str, bytes | None], words: str) -> None:
    assert described(headers) == words
