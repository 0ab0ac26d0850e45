"""A worker reports the truth in every state: Kafka's silence while it is idle, the service's lag while it is stopped or
waits, and who holds an input back.
"""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from confluent_kafka import IsolationLevel, Producer

from dev.servers import Servers
from dev.servers.places import free_port
from shared import command
from shared.telemetry import metrics
from shared.telemetry.metrics import STATES
from shared.testing import until
from tests.alerts import PROMTOOL, firing
from tests.faults import record_size, trail
from tests.faults.stage import Stage, Worker, headers
from tests.integration.worker.pages import fires, shown, values

MANY_RECOVERIES = 10
"""In five minutes; more is an alarm."""


def state(worker: Worker) -> str:
    """Return the worker's only state."""
    page = shown(worker)
    found = dict(re.findall(r'^exactly_once_worker_state{state="(\w+)"} (\S+)$', page, re.MULTILINE))
    assert set(found) == set(STATES)
    assert sorted(found.values()) == ["0.0"] * (len(STATES) - 1) + ["1.0"]
    return str(next(name for name, value in found.items() if value == "1.0"))


def lines(worker: Worker) -> list[dict[str, Any]]:
    """Return the log's lines; each must be JSON."""
    return [json.loads(line) for line in worker.log().splitlines()]


def events(worker: Worker, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(worker) if line["event"] == name]


def outages(worker: Worker) -> list[str]:
    """Return beginnings and ends of Kafka's outages."""
    return [str(line["event"]) for line in lines(worker) if line["event"] in {"kafka_unavailable", "kafka_available"}]


@contextmanager
def at_work(stage: Stage, **settings: Any) -> Iterator[Worker]:
    worker = stage.worker(metrics_port=free_port(), log_format="json", **settings)
    stage.until(lambda: worker.ready() == (200, "working: 2 inputs, 2 lanes\n"), "it works")
    stage.ask()
    stage.until_drained()
    yield worker


def test_an_idle_worker_tells_that_kafka_is_gone_and_is_back(breakable_servers: Servers, tmp_path: Path) -> None:
    kafka = breakable_servers.kafka
    with Stage(breakable_servers, tmp_path) as stage, at_work(stage) as worker:
        until(lambda: values(worker, "exactly_once_consumer_lag_records") == [0.0, 0.0], "the lag is known")
        assert state(worker) == "working"
        assert values(worker, "exactly_once_lanes_owned") == [2.0]
        assert fires(worker, tmp_path) in (None, set())

        kafka.freeze()
        until(lambda: worker.ready()[0] == 503, "it does not call itself ready")
        until(lambda: state(worker) == "waiting", "the gauge says so too")
        assert "Kafka" in worker.ready()[1]
        assert values(worker, "exactly_once_lanes_owned") == [], "what is not known is not shown"
        until(lambda: values(worker, "exactly_once_consumer_lag_records") == [], "nor is the lag")
        until(lambda: values(worker, "exactly_once_outbox_oldest_seconds") == [0.0], "PostgreSQL answers")
        assert fires(worker, tmp_path) in (None, {"WorkerWaits", "NoWorkerWorks", "LagUnknown"})
        kafka.thaw()
        until(lambda: worker.ready()[0] == 200 and outages(worker)[-1:] == ["kafka_available"], "it works again")

        kafka.kill()
        until(lambda: worker.ready()[0] == 503, "it does not call itself ready")
        until(lambda: outages(worker)[-1:] == ["kafka_unavailable"], "the outage has begun")
        kafka.start()
        until(lambda: worker.ready()[0] == 200 and state(worker) == "working", "it works again")
        until(lambda: outages(worker)[-1:] == ["kafka_available"], "and says so")
        assert outages(worker) == ["kafka_unavailable", "kafka_available"] * (len(outages(worker)) // 2)
        began, ended = events(worker, "kafka_unavailable"), events(worker, "kafka_available")
        assert [line["since"] for line in began] == [line["since"] for line in ended]
        client = [line for line in lines(worker) if line["event"] == "kafka_client"]
        assert client, "the client's lines are in our form"
        stage.stop()
        assert len(lines(worker)) < 60


def test_the_lag_is_true_while_a_table_is_locked_and_while_a_worker_is_stopped(stage: Stage, tmp_path: Path) -> None:
    with at_work(stage) as worker:
        until(lambda: values(worker, "exactly_once_consumer_lag_records") == [0.0, 0.0], "the lag is known")
        with psycopg.connect(stage.servers.postgres.dsn(stage.name)) as locking:
            locking.execute("LOCK TABLE exactly_once_position, exactly_once_outbox IN ACCESS EXCLUSIVE MODE")
            stage.ask(list(stage.keys) * 10)
            until(
                lambda: 40 <= sum(values(worker, "exactly_once_consumer_lag_records")) <= 44,
                "what waits is told, and at most what was handled since its last look before the lock",
            )
            until(lambda: state(worker) == "waiting", "it waits")
            until(lambda: values(worker, "exactly_once_outbox_oldest_seconds") == [], "nobody knows that")
            assert fires(worker, tmp_path) in (None, {"WorkerWaits", "NoWorkerWorks", "LagGrows"})
            assert worker.ready()[0] == 503
        stage.until_drained()
        until(lambda: events(worker, "database_available"), "PostgreSQL is back")
        assert len(events(worker, "database_available")) == len(events(worker, "database_unavailable"))

        stage.connection.execute("UPDATE exactly_once_position SET next_offset = next_offset - 3 WHERE partition = 0")
        worker.send(signal.SIGKILL)
        worker.again()
        until(lambda: worker.ready()[0] == 503 and state(worker) == "stopped", "an operator has to decide")
        until(
            lambda: sum(values(worker, "exactly_once_consumer_lag_records")) == 3,
            "the lag of all inputs, though it owns none",
        )
        assert values(worker, "exactly_once_lanes_owned") == []
        assert values(worker, "exactly_once_partitions_parked") == []
        stage.request()
        stage.connection.execute("UPDATE exactly_once_outbox SET decided_at = decided_at - interval '1 hour'")
        stage.schedule()
        stage.connection.execute("UPDATE exactly_once_schedule SET due = due - interval '1 hour'")
        until(lambda: max(values(worker, "exactly_once_outbox_oldest_seconds"), default=0) > 3_600, "it ages")
        until(lambda: max(values(worker, "exactly_once_schedule_overdue_seconds"), default=0) > 3_000, "that too")
        expected = {"WorkerStopped", "NoWorkerWorks", "LagGrows", "OldestUnpublishedRow", "ScheduleOverdue"}
        assert fires(worker, tmp_path) in (None, expected)


def test_whoever_consumes_says_who_holds_it_back(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_work(stage) as worker:
        stranger = Producer(
            {
                "bootstrap.servers": stage.bootstrap,
                "transactional.id": f"{stage.name}-x",
                "transaction.timeout.ms": 90_000,
                "log_level": 0,
            }
        )
        stranger.init_transactions(30)
        stranger.begin_transaction()
        topic = stage.kit.asked.topic
        end = stage.ends(topic, IsolationLevel.READ_UNCOMMITTED)[0]
        head = [*headers("the-first")[:1], ("ce_source", b"stranger\x1b[2J"), *headers("the-first")[2:]]
        stranger.produce(topic, b"{}", "k", partition=0, headers=head)
        assert stranger.flush(30) == 0

        until(lambda: "by transactional id" in worker.ready()[1], "health says so")
        status, detail = worker.ready()
        assert status == 200, "it is no fault of this worker"
        assert f"{topic}[0] has been held back at offset {end} since 20" in detail
        assert f"UTC by transactional id {stage.name}-x (producer " in detail
        assert "; Ongoing, with a timeout of 90 s)" in detail
        assert r"its first record: Asked.v1 the-first of stranger\x1b[2J" in detail
        threshold = 31 if PROMTOOL else 10
        until(lambda: max(values(worker, "exactly_once_partition_held_back_seconds")) > threshold, "so does a metric")
        labels = f'{{partition="0",topic="{topic}",transactional_id="{stage.name}-x"}} 1.0'
        named = f"exactly_once_partition_held_back_by{labels}"
        assert named in shown(worker)
        assert fires(worker, tmp_path) in (None, {"HeldBack", "LagGrows"})
        assert sorted(values(worker, "exactly_once_consumer_lag_records")) == [0.0, 1.0], (
            "what is held back waits as well"
        )
        built = trail.build(stage.name, stage.settings)
        with mock.patch.object(metrics, "configure"):
            assert command.run(built, ["positions", "show", "--json"]) == 0
        built.engine().dispose()
        (asked,) = [i for i in json.loads(capsys.readouterr().out)["inputs"] if i["source"] == f"{topic}[0]"]
        assert (asked["lag"], asked["state"]) == (1, f"held back at {end}"), "as the metric says"
        assert f"by transactional id {stage.name}-x (producer " in asked["held_back"]
        (told,) = events(worker, "held_back")
        assert (told["offset"], told["transactional_id"]) == (end, f"{stage.name}-x")

        stranger.abort_transaction(30)
        until(lambda: events(worker, "held_back_ended"), "its end is told")
        until(lambda: worker.ready()[1] == "working: 2 inputs, 2 lanes\n", "and forgotten")
        until(lambda: values(worker, "exactly_once_consumer_lag_records") == [0.0, 0.0], "nothing waits")
        assert not values(worker, "exactly_once_partition_held_back_by")
        stage.stop()


def test_a_parked_input_is_an_alarm(stage: Stage, tmp_path: Path) -> None:
    with at_work(stage, parked_records_max=0) as worker:
        stage.connection.execute(f"CREATE TABLE {trail.DOWN} ()".encode())
        stage.ask(stage.keys[:1], wish="retry")
        until(lambda: values(worker, "exactly_once_partitions_parked") == [1.0], "an input is parked")
        assert {"Parked"} <= (fires(worker, tmp_path) or {"Parked"})


def test_keys_that_wait_for_long_and_fill_what_there_is_for_them_are_alarms(stage: Stage, tmp_path: Path) -> None:
    with at_work(stage, parked_records_max=5) as worker:
        stage.connection.execute(f"CREATE TABLE {trail.DOWN} ()".encode())
        stage.ask(stage.keys[:1] * 4, wish="retry")
        until(lambda: values(worker, "exactly_once_parked_filled_ratio") == [0.8], "four of five places are taken")
        with stage.connection.transaction():  # the worker updates several rows of it as well, in an order of its own
            stage.connection.execute("LOCK TABLE exactly_once_parked IN EXCLUSIVE MODE")
            stage.connection.execute("UPDATE exactly_once_parked SET parked_at = parked_at - interval '2 hours'")
        until(
            lambda: max(values(worker, "exactly_once_parked_oldest_seconds"), default=0) > 7_000, "it waits for hours"
        )
        assert fires(worker, tmp_path) in (None, {"KeysWait", "ParkingFills"})


SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'trail_runtime'
"""
RECOVERED = re.compile(r'^exactly_once_recoveries_total{cause="(\w+)"} (\S+)$', re.MULTILINE)


def test_a_worker_that_loses_its_sessions_again_and_again_is_an_alarm(stage: Stage, tmp_path: Path) -> None:
    def lose(worker: Worker) -> None:
        before = sum(values(worker, "exactly_once_recoveries_total"))
        stage.connection.execute(SESSIONS)
        stage.request(stage.keys[:1])
        until(lambda: sum(values(worker, "exactly_once_recoveries_total")) > before, "it recovers")
        until(lambda: state(worker) == "working", "and works again")

    with at_work(stage, recoveries_per_minute_max=1_000) as worker:
        lose(worker)
        page = shown(worker)
        before = dict(RECOVERED.findall(page))  # a cause that is new counts from when it is first seen
        for _ in range(4 * MANY_RECOVERIES):
            now = dict(RECOVERED.findall(shown(worker)))
            if sum(float(now[cause]) - float(known) for cause, known in before.items()) > MANY_RECOVERIES:
                break
            lose(worker)
        assert fires(worker, tmp_path, page) in (None, {"WorkerRecovers"})
        stage.until_drained()
        stage.stop()
        assert stage.problems() == []


def test_a_worker_that_ends_again_and_again_is_an_alarm(stage: Stage, tmp_path: Path) -> None:
    with at_work(stage) as worker:
        began = values(worker, "process_start_time_seconds")
        for _ in range(3):
            worker.send(signal.SIGKILL)
            worker.ended()
            if PROMTOOL:
                assert firing("", tmp_path) == {"MetricsAbsent", "NoWorkerWorks"}, "nobody answers"
            worker.again()
            until(lambda: worker.ready()[0] == 200, "it works again")
            began += values(worker, "process_start_time_seconds")
        assert began == sorted(set(began)), "each time it is another process"
        page = re.sub(
            r"^process_start_time_seconds .*$",
            "process_start_time_seconds {:f}x45 {:f}x2 {:f}x2 {:f}x40".format(*began),
            shown(worker),
            flags=re.MULTILINE,
        )
        if PROMTOOL:
            assert firing(page, tmp_path) == {"ProcessRestarts"}


def test_a_handler_that_fails_for_most_records_is_an_alarm(stage: Stage, tmp_path: Path) -> None:
    with at_work(stage) as worker:
        until(lambda: values(worker, "exactly_once_consumer_lag_records") == [0.0, 0.0], "it has caught up")
        before = shown(worker)
        assert fires(worker, tmp_path, before) in (None, set())
        stage.ask(list(stage.keys) * 2, wish="defect")
        until(lambda: values(worker, "exactly_once_records_set_aside_total") == [8.0], "they are set aside")
        until(lambda: values(worker, "exactly_once_dead_letters_waiting") == [8.0], "and wait")
        assert fires(worker, tmp_path, before) in (None, {"RecordsSetAside", "DeadLettersWait"})


def grown(worker: Worker, name: str, labels: str = "") -> float:
    """Return the value of a metric with these labels; 0 if it is not there."""
    found = re.search(rf"^exactly_once_{name}{re.escape(labels)} (\S+)$", shown(worker), re.MULTILINE)
    return float(found[1]) if found else 0.0


def until_counted(stage: Stage, worker: Worker, least: float) -> None:
    """Publish until so many Kafka transactions are counted: one that took suspiciously long is not."""

    def counted() -> bool:
        stage.request(stage.keys[:1])
        stage.until_drained()
        return grown(worker, "publish_seconds_count") >= least

    until(counted, f"{least:.0f} transactions plainly succeed")


def test_what_passes_through_a_worker_is_counted(stage: Stage, tmp_path: Path) -> None:
    asked, told = f'{{topic="{stage.kit.asked.topic}"}}', f'{{topic="{stage.kit.told.topic}"}}'
    with at_work(stage) as worker:
        until_counted(stage, worker, 1)
        assert grown(worker, "records_received_total", asked) >= 4
        assert grown(worker, "received_bytes_total", asked) > 4 * len("{}")
        until(
            lambda: (
                grown(worker, "records_published_total", told)
                == grown(worker, "kafka_transaction_rows_sum")
                == grown(worker, "events_published_total")
                >= 1
            ),
            "rows are counted when they are published, as the worker itself counts them",
        )
        assert grown(worker, "published_bytes_total", told) > len("{}")
        assert grown(worker, "batch_events_sum") >= 4
        assert grown(worker, "handling_events_total", '{type="Asked"}') >= 4
        handled = f'{{status="handled",topic="{stage.kit.asked.topic}"}}'
        assert grown(worker, "records_decided_total", handled) == grown(worker, "events_handled_total") >= 4
        until(lambda: grown(worker, "kafka_broker_round_trip_seconds", '{broker="1"}') > 0, "the broker is far away")
        assert grown(worker, "kafka_broker_connected", '{broker="1"}') == 1
        assert grown(worker, "handling_seconds_total", '{type="Asked"}') > 0
        assert grown(worker, "database_transaction_seconds_count") >= grown(worker, "batch_events_count") > 0
        lanes = r'^exactly_once_outbox_lane_rows_at_most{lane="(\d)"} 0.0$'
        until(
            lambda: re.findall(lanes, shown(worker), re.MULTILINE) == ["0", "1"],
            "both lanes are its own, and nothing waits in them",
        )
        assert grown(worker, "database_connections_max", '{pool="worker"}') == 6
        assert 1 <= grown(worker, "database_connections_in_use", '{pool="worker"}') <= 6
        stage.stop()


@pytest.mark.proof
def test_a_clock_that_is_behind_looks_like_slow_publishing(stage: Stage, tmp_path: Path) -> None:
    behind = "ALTER TABLE exactly_once_outbox ALTER decided_at SET DEFAULT clock_timestamp() - interval '10 s'"
    with at_work(stage) as worker:
        before = shown(worker)
        stage.connection.execute(behind.encode())
        until_counted(stage, worker, grown(worker, "publish_seconds_count") + 12)
        assert "PublishingSlow" in (fires(worker, tmp_path, before) or {"PublishingSlow"})
        stage.stop()


@pytest.mark.proof
def test_transactions_that_fail_are_an_alarm(stage: Stage, tmp_path: Path) -> None:
    with at_work(stage) as worker:
        before = shown(worker)
        record_size.limit(stage.bootstrap, stage.kit.told.topic, record_size.AROUND_BYTES + 10)
        worker.send(signal.SIGSTOP)
        stage.request(stage.keys[:1] * 64)
        worker.send(signal.SIGCONT)
        until(lambda: state(worker) == "stopped", "it has found a row that Kafka refuses")
        failed = 'exactly_once_kafka_transactions_failed_total{cause="ContentRefused"}'
        assert float(shown(worker).split(f"{failed} ")[1].split()[0]) >= 5, "claims of 64 rows, of 32, and so on"
        assert "KafkaTransactionsFail" in (fires(worker, tmp_path, before) or {"KafkaTransactionsFail"})
