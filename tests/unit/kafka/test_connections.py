"""What the client tells of its brokers is shown, as far as it is known, and nothing that it tells can do harm."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.kafka.connections import BROKERS_MAX, Connections
from shared.telemetry import metrics


def broker(number: int, state: str = "UP", **more: Any) -> dict[str, Any]:
    """Return what librdkafka tells of a broker, in short."""
    window = {"cnt": 3, "p99": 2_500, "max": 9_000}
    return {"nodeid": number, "source": "learned", "state": state, "disconnects": 0, "rtt": window, **more}


def told(*brokers: dict[str, Any]) -> str:
    return json.dumps({"name": "c", "brokers": {f"b:{n}": one for n, one in enumerate(brokers)}, "topics": {}})


def shown(name: str) -> dict[str, float]:
    return {
        sample.labels["broker"]: sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == f"exactly_once_kafka_broker_{name}"
    }


@pytest.fixture(autouse=True)
def _nothing_is_known() -> Iterator[None]:
    metrics.DISCONNECTS.clear()
    yield
    metrics.DISCONNECTS.clear()
    for gauge in (metrics.ROUND_TRIP, metrics.CONNECTED):
        gauge.forget()


def test_what_is_not_known_of_a_broker_is_absent() -> None:
    Connections().see(
        told(
            broker(1),
            broker(2, "DOWN", rtt={"cnt": 0, "p99": 0}),
            broker(3, "INIT", rtt={"cnt": 0, "p99": 0}),
            broker(-1, source="configured"),
            broker(1, source="logical"),
        )
    )

    assert shown("round_trip_seconds") == {"1": 0.0025}
    assert shown("connected") == {"1": 1.0, "2": 0.0}


def test_connections_that_broke_are_counted_over_all_clients() -> None:
    connections = Connections()
    for disconnects in (0, 2, 2):
        connections.see(told(broker(1, disconnects=disconnects)))
    assert shown("disconnects_total") == {"1": 2.0}

    assert connections.settings()["stats_cb"] == connections.see
    connections.see(told(broker(1, disconnects=1)))
    assert shown("disconnects_total") == {"1": 3.0}


def test_a_large_cluster_is_shown_in_part() -> None:
    Connections().see(told(*(broker(number) for number in range(2 * BROKERS_MAX, 0, -1))))

    assert set(shown("connected")) == {str(number) for number in range(1, BROKERS_MAX + 1)}


@pytest.mark.parametrize("statistics", ["", "{", "[]", '{"brokers": {"b": {}}}', '{"brokers": {"b": 1}}'])
def test_statistics_of_another_form_tell_nothing(statistics: str) -> None:
    Connections().see(statistics)

    assert shown("connected") == {}
