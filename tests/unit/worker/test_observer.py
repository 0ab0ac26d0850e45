"""The observer blames the server that does not answer, and no other."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import REGISTRY
from sqlalchemy.exc import OperationalError

from shared.postgres import backlog
from shared.telemetry import outages
from shared.testing import until
from shared.worker import observer
from shared.worker.observer import Observer
from tests.faults import trail
from tests.faults.stage import StageSettings


def answer(value: object) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


SERVICE = trail.make("observed").service


class Admin:
    """A Kafka whose topics have one partition each, until it fails."""

    topics: Exception | None = None
    published: Exception | None = None
    offsets: Exception | None = None
    in_sync: Sequence[Any] = ("a", "b")

    def __init__(self, *_: object, **__: object) -> None:
        """Connect to nothing."""

    def poll(self, _seconds: float) -> None:
        """Do nothing: there is no log."""

    def describe_topics(self, topics: Any, **_: object) -> dict[str, Future[Any]]:
        """Return the partitions."""
        leader = SimpleNamespace(id=1)
        partitions = [SimpleNamespace(leader=leader, replicas=["a", "b"], isr=self.in_sync)]
        own = dict.fromkeys(("observed.told", SERVICE.lane_topic), self.published)
        failures = {"observed.asked": self.topics, **own}
        return {name: answer(error or SimpleNamespace(partitions=partitions)) for name, error in failures.items()}

    def describe_configs(self, resources: Sequence[Any], **_: object) -> dict[Any, Future[Any]]:
        """Tell that two replicas have to be in sync."""
        least = {"min.insync.replicas": SimpleNamespace(value="2")}
        return {resource: answer(least) for resource in resources}

    def list_offsets(self, asked: dict[Any, Any], **_: object) -> dict[Any, Future[Any]]:
        """Return the ends."""
        return {partition: answer(self.offsets or SimpleNamespace(offset=7)) for partition in asked}


class Scene:
    """An observer with made-up servers and a clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.lines: list[tuple[str, str]] = []
        self.connect: Callable[[], Any] = self.locked
        self.admin: Any = type("OfThisTest", (Admin,), {})
        monkeypatch.setattr(observer, "AdminClient", self.admin)
        monkeypatch.setattr(observer, "ANSWER_SECONDS", 0.05)
        monkeypatch.setattr(observer, "time", SimpleNamespace(monotonic=lambda: self.now))
        log = SimpleNamespace(warning=lambda event, **facts: self.lines.append((event, facts.get("detail", ""))))
        monkeypatch.setattr(outages, "log", log)
        monkeypatch.setattr(outages, "KAFKA", outages.Outage("kafka"))
        monkeypatch.setattr(outages, "DATABASE", outages.Outage("database"))
        settings = StageSettings.model_validate({"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x"})
        engine = SimpleNamespace(connect=self._connect)
        self.observer = Observer(cast("Any", engine), settings, SERVICE)

    def _connect(self) -> Any:
        return self.connect()

    def locked(self) -> Any:
        """Let PostgreSQL refuse the lock."""
        original = Exception("canceling statement due to lock timeout")
        original.sqlstate = "55P03"  # type: ignore[attr-defined]
        raise OperationalError("SELECT", {}, original)

    def look(self, seconds: float) -> str:
        """Look again after some time, and return what it reports."""
        self.now += seconds
        self.observer.look()
        return self.observer.silence()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


@pytest.fixture
def thaw() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_database_that_hangs_is_not_taken_for_kafka(scene: Scene, thaw: threading.Event) -> None:
    assert not scene.look(3)

    def hang() -> Any:
        thaw.wait(30)
        scene.locked()

    scene.connect = hang
    assert not scene.look(3)
    assert scene.look(11) == "PostgreSQL has not answered for 11 s"
    assert scene.look(11) == "PostgreSQL has not answered for 22 s"
    assert scene.lines == [("database_unavailable", "PostgreSQL has not answered for 11 s")]
    thaw.set()
    until(lambda: not scene.observer.silence(), "it answers", seconds=10)
    assert [event for event, _ in scene.lines] == ["database_unavailable", "database_available"]


def test_a_kafka_that_hangs_is_not_taken_for_the_database(scene: Scene) -> None:
    assert not scene.look(3)
    scene.admin.topics = TimeoutError()
    assert not scene.look(3)
    assert scene.look(11) == "Kafka has not answered for 11 s"
    assert [event for event, _ in scene.lines] == ["kafka_unavailable"]
    scene.admin.topics = None
    assert not scene.look(3)
    assert not scene.look(60), "nobody has asked meanwhile"


def test_leaders_that_do_not_answer_are_no_answer_and_no_error_of_ours(scene: Scene) -> None:
    assert not scene.look(3)
    scene.admin.offsets = TimeoutError()
    assert not scene.look(3)
    assert not scene.look(3), "somebody tells the topics"
    assert scene.observer._admin is None, "another client asks next time"
    scene.admin.offsets = None
    assert not scene.look(3)
    assert scene.observer._admin is not None


def shown(name: str) -> dict[str, float]:
    """Return the values of a gauge by topic or lane."""
    return {
        ",".join(sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == f"exactly_once_{name}"
    }


def test_what_the_topics_of_the_service_lack_is_shown(scene: Scene) -> None:
    scene.look(3)
    scene.look(3)
    names = ("observed.asked", "observed.told", SERVICE.lane_topic)
    assert shown("kafka_partitions_under_replicated") == dict.fromkeys(names, 0.0)
    assert shown("kafka_partitions_offline") == dict.fromkeys(names, 0.0)
    assert shown("kafka_partitions_below_min_isr") == dict.fromkeys(names, 0.0)

    scene.admin.in_sync = ["a"]
    scene.look(3)
    assert shown("kafka_partitions_under_replicated") == dict.fromkeys(names, 1.0)
    assert shown("kafka_partitions_offline") == dict.fromkeys(names, 0.0)
    assert shown("kafka_partitions_below_min_isr") == dict.fromkeys(names, 1.0)


def test_a_topic_that_it_only_publishes_on_and_may_not_see_is_no_silence(scene: Scene) -> None:
    scene.admin.published = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    scene.look(3)
    assert not scene.look(11)
    assert shown("kafka_partitions_offline") == {"observed.asked": 0.0}, "nothing is said of what is not known"


def test_a_worker_shows_what_waits_in_its_own_lanes(scene: Scene) -> None:
    waits = [backlog.Lane(0, 5, 7, 1.5), backlog.Lane(2, 6, 6, 0.5)]
    backlog.show_lanes(waits, {1, 2})
    assert shown("outbox_lane_rows_at_most") == {"1": 0.0, "2": 1.0}
    assert shown("outbox_lane_oldest_seconds") == {"1": 0.0, "2": 0.5}

    backlog.show_lanes(waits, ())
    assert shown("outbox_lane_rows_at_most") == {"0": 3.0, "2": 1.0}, "all where some wait, if it owns none"
