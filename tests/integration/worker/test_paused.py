"""An operator pauses one of two topics, on real servers: it waits, whatever becomes of workers, and goes on."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from sqlalchemy import text

from dev.servers import Servers
from dev.servers.places import free_port
from shared.container import ServiceContainer
from shared.events import Event
from shared.kafka import topics
from shared.operations import inputs
from shared.operations.maintenance import Context
from shared.service import Service
from shared.session import Session
from shared.settings import Settings
from tests.faults import trail
from tests.faults.stage import Stage, Worker, headers, producer
from tests.integration.worker.pages import fires, shown

BOTH = [pytest.param("classic", id="classic"), pytest.param("consumer", id="KIP-848")]
PATIENT: dict[str, Any] = {"handler_seconds_max": 300.0, "transaction_timeout_ms": 300_000}
"""A handler waits until the observer has looked."""


def with_other(service: Service) -> str:
    """Let the service consume one more topic, whose events leave a row in the table `other`, and may wait while
    there is a row in `closed`; return its name.
    """
    name = f"{service.name}.other"

    class Other(Event, frozen=True, kw_only=True):
        topic: ClassVar[str] = name
        number: int
        waits: bool = False

        @property
        def key(self) -> str:
            return str(self.number)

    @service.on(Other)
    def handler(event: Other, session: Session) -> None:
        while event.waits and session.connection().scalar(text("SELECT EXISTS (SELECT FROM closed)")):
            session.execute(text("SELECT pg_sleep(0.2) AS at_gate"))
        session.execute(text("INSERT INTO other VALUES (:number)"), {"number": event.number})

    return name


def build(name: str, settings: Settings) -> ServiceContainer:
    kit = trail.make(name)
    with_other(kit.service)
    return trail.container(kit, settings)


class Pausing:
    """A service with two inputs, and an operator."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.topic = stage.kit.asked.topic
        self.other = with_other(stage.kit.service)
        topics.create_topics(stage.settings, stage.kit.service)
        stage.connection.execute(b"CREATE TABLE other (number int)")
        stage.connection.execute(b"CREATE TABLE closed ()")
        stage.connection.execute(b"GRANT ALL ON other, closed TO PUBLIC")
        self.context = Context(stage.settings, stage.kit.service, stage._engine, stage.outbox)
        self._numbers = iter(range(1, 1_000))
        self._told = 0

    def pause(self, worker: Worker) -> None:
        """Pause the first topic, and wait until this worker has seen it."""
        inputs.pause(self.context, self.topic, reason="its producer is wrong")
        self.until_told(worker)

    def until_told(self, worker: Worker, topic: str = "") -> None:
        words = f"paused by an operator: {topic or self.topic}"
        self.stage.until(lambda: words in worker.ready()[1], "it is paused")
        self.stage.until(lambda: worker.ready()[0] == 200, "that is no fault")

    def resume(self, topic: str = "") -> None:
        inputs.resume(self.context, topic or self.topic)

    def until_other_flows(self) -> None:
        """Produce to the other topic, and wait until that took effect."""
        self.tell_other()
        self.stage.until(lambda: self.others() >= self._told, "the other input goes on")

    def tell_other(self, *, waits: bool = False) -> None:
        """Produce to the other topic, in each partition, or one event that waits."""
        client = producer(self.stage.bootstrap)
        for p in range(1 if waits else self.stage._partitions):
            number = next(self._numbers)
            data = msgspec.json.encode({"number": number, "waits": waits})
            client.produce(self.other, data, str(number), partition=p, headers=headers(f"o-{number}", "Other.v1"))
            self._told += 1
        self.stage.flush()

    def others(self) -> int:
        return self.stage.one("SELECT count(*) FROM other")

    def effects(self) -> int:
        return self.stage.one("SELECT count(*) FROM effect")

    def check(self) -> None:
        """Compare the books, when all is drained."""
        self.stage.until_drained()
        self.stage.stop()
        assert self.stage.problems() == []
        assert self.others() == self.stage.one("SELECT count(DISTINCT number) FROM other") == self._told


@pytest.fixture
def pausing(servers: Servers, tmp_path: Path) -> Iterator[Pausing]:
    with Stage(servers, tmp_path, build=build, retry_seconds_max=0.5, **PATIENT) as stage:
        yield Pausing(stage)
        stage.show()


def measured(worker: Worker, name: str, topic: str) -> list[float]:
    """Return the values of a metric of a topic."""
    found = re.findall(rf'^{name}{{[^}}]*topic="{re.escape(topic)}".*}} (\S+)$', shown(worker), re.MULTILINE)
    return [float(value) for value in found]


DAY = 86_400.0
PAUSED, LAG = "exactly_once_input_paused_seconds", "exactly_once_consumer_lag_records"


@pytest.mark.parametrize("protocol", BOTH)
def test_a_paused_topic_waits_through_a_rebalance_and_a_kill_and_goes_on_where_it_was(
    servers: Servers, tmp_path: Path, protocol: str
) -> None:
    with Stage(servers, tmp_path, build=build, group_protocol=protocol, session_timeout_ms=6_000) as stage:
        pausing = Pausing(stage)
        first = stage.worker(metrics_port=free_port())
        stage.ask()
        pausing.until_other_flows()
        stage.until_drained()
        before = pausing.effects()
        pausing.pause(first)

        stage.ask()
        stage.request()
        pausing.until_other_flows()
        stage.until(lambda: stage.one("SELECT count(*) FROM exactly_once_outbox") == 0, "the outbox goes on")
        assert pausing.effects() == before
        stage.until(lambda: sum(measured(first, LAG, pausing.topic)) == len(stage.keys), "its lag shows, and stands")

        second = stage.worker(metrics_port=free_port())
        stage.until_shared(2)
        pausing.until_told(second)
        pausing.until_other_flows()
        assert pausing.effects() == before, "a rebalance changes nothing"

        second.send(signal.SIGKILL)
        second.again()
        stage.until_shared(2)
        pausing.until_told(second)
        stage.ask()
        pausing.until_other_flows()
        assert pausing.effects() == before, "nor does a worker that is killed, and started again"

        pausing.resume()
        stage.until_drained()
        pausing.until_other_flows()
        stage.until(lambda: "paused" not in first.ready()[1] + second.ready()[1], "nothing is paused")
        pausing.check()


def test_what_is_being_handled_is_finished_and_nothing_more(pausing: Pausing, tmp_path: Path) -> None:
    stage, other = pausing.stage, pausing.other
    stage.connection.execute(b"INSERT INTO closed DEFAULT VALUES")
    pausing.tell_other(waits=True)
    worker = stage.worker(metrics_port=free_port())
    stage.until(stage.at_gate, "it is being handled")
    pausing.tell_other()
    inputs.pause(pausing.context, other, reason="enough")
    stage.until(lambda: sum(measured(worker, PAUSED, other)) > 0, "its worker knows")
    assert measured(worker, PAUSED, pausing.topic) == [0.0]
    stage.connection.execute(b"DELETE FROM closed")
    pausing.until_told(worker, other)
    stage.ask()
    stage.until(lambda: pausing.effects() == len(stage.keys), "the other input goes on")
    assert pausing.others() == 1

    assert fires(worker, tmp_path) in (None, set()), "an operator has paused it just now"
    stage.connection.execute(b"UPDATE exactly_once_pause SET paused_at = now() - interval '2 days'")
    stage.until(lambda: max(measured(worker, PAUSED, other)) > DAY, "it is as if he had done so two days ago")
    assert fires(worker, tmp_path) in (None, {"InputPaused"})
    pausing.resume(other)
    stage.until(lambda: pausing.others() == 3, "the rest follows")
    pausing.check()


def test_what_waits_for_another_attempt_waits_for_the_end_of_the_pause(pausing: Pausing) -> None:
    stage = pausing.stage
    stage.connection.execute(f"CREATE TABLE {trail.DOWN} ()".encode())
    stage.ask(stage.keys[:1], wish="retry")
    worker = stage.worker(metrics_port=free_port())
    stage.until(lambda: stage.one("SELECT count(*) FROM exactly_once_parked") == 1, "it is parked")
    pausing.pause(worker)
    stage.connection.execute(f"DROP TABLE {trail.DOWN}".encode())
    tried = "SELECT max(attempts) FROM exactly_once_parked"
    attempts = stage.one(tried)
    stage.until(lambda: stage.one("SELECT max(due) < now() - interval '1 s' FROM exactly_once_parked"), "it is due")
    pausing.until_other_flows()
    assert (pausing.effects(), stage.one(tried)) == (0, attempts), "it is not tried"
    pausing.resume()
    pausing.check()
