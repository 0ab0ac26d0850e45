"""What the brokers say of a service's topics, and what they do not say."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import REGISTRY

from shared.kafka import brokers
from shared.kafka.brokers import LEAST_SECONDS, Brokers
from shared.telemetry import metrics


def partition(leader: int | None, replicas: Sequence[int], in_sync: Sequence[int]) -> Any:
    def nodes(ids: Sequence[int]) -> list[Any]:
        return [SimpleNamespace(id=number) for number in ids]

    led = None if leader is None else SimpleNamespace(id=leader)
    return SimpleNamespace(leader=led, replicas=nodes(replicas), isr=nodes(in_sync))


def shown(name: str) -> dict[str, float]:
    return {
        sample.labels["topic"]: sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == f"exactly_once_kafka_partitions_{name}"
    }


class Admin:
    """Brokers that tell the settings of topics, or refuse."""

    def __init__(self, **least: str | Exception) -> None:
        self.least = {topic.replace("_", "."): value for topic, value in least.items()}
        self.asked: list[str] = []

    def describe_configs(self, resources: Sequence[Any], **_: object) -> dict[Any, Future[Any]]:
        found = {}
        for resource in resources:
            self.asked.append(resource.name)
            answer: Future[Any] = Future()
            value = self.least[resource.name]
            if isinstance(value, Exception):
                answer.set_exception(value)
            else:
                answer.set_result({"min.insync.replicas": SimpleNamespace(value=value), "retention.ms": None})
            found[resource] = answer
        return found


@pytest.fixture(autouse=True)
def _nothing_is_known() -> Iterator[None]:
    for gauge in (metrics.OFFLINE, metrics.UNDER_REPLICATED, metrics.BELOW_MIN_ISR):
        gauge.forget()
    yield
    for gauge in (metrics.OFFLINE, metrics.UNDER_REPLICATED, metrics.BELOW_MIN_ISR):
        gauge.forget()


def test_partitions_are_counted_by_what_they_lack() -> None:
    seen = Brokers()
    seen.see(
        {
            "sound": [partition(1, [1, 2, 3], [1, 2, 3]), partition(2, [1, 2, 3], [3, 2, 1])],
            "hurt": [partition(1, [1, 2, 3], [1, 2]), partition(None, [1, 2], [2]), partition(-1, [2], [2])],
        }
    )

    assert shown("under_replicated") == {"sound": 0.0, "hurt": 2.0}
    assert shown("offline") == {"sound": 0.0, "hurt": 2.0}
    assert shown("below_min_isr") == {}, "nobody has told how many there have to be"


def test_too_few_replicas_are_told_once_it_is_known_how_many_there_have_to_be() -> None:
    seen, topics = Brokers(), {"a.events": [partition(1, [1, 2, 3], [1]), partition(1, [1, 2, 3], [1, 2])]}
    seen.see(topics)
    seen.ask(cast("Any", Admin(a_events="2")))
    seen.see(topics)

    assert shown("below_min_isr") == {"a.events": 1.0}


@pytest.mark.parametrize(
    "refusal", [KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), TimeoutError(), "many"]
)
def test_a_topic_of_which_nobody_tells_is_left_out(refusal: Any) -> None:
    seen = Brokers()
    topics = {"a.events": [partition(1, [1], [1])], "b.events": [partition(1, [1, 2], [1])]}
    seen.see(topics)
    seen.ask(cast("Any", Admin(a_events=refusal, b_events="2")))
    seen.see(topics)

    assert shown("below_min_isr") == {"b.events": 1.0}


def test_brokers_are_asked_once_in_a_while_and_a_failure_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(brokers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    seen, topics, admin = Brokers(), {"a.events": [partition(1, [1, 2], [1])]}, Admin(a_events="2")
    seen.ask(cast("Any", admin))
    assert admin.asked == [], "it is not known yet for which topics"

    for _ in range(3):
        seen.see(topics)
        seen.ask(cast("Any", admin))
    assert admin.asked == ["a.events"]

    now[0] += LEAST_SECONDS
    admin.least["a.events"] = TimeoutError()
    seen.ask(cast("Any", admin))
    seen.see(topics)
    assert admin.asked == ["a.events"] * 2
    assert shown("below_min_isr") == {"a.events": 1.0}, "what was known still holds"
