"""The shipped alerts use metrics that exist, and fire at a process's metrics."""

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from shared.calls import metrics as calls  # noqa: F401
from shared.postgres import backlog, dead_letters, parked, pauses, schedule  # noqa: F401 (they have the metrics)
from shared.telemetry import metrics  # noqa: F401
from tests.alerts import ALERTS, PROMTOOL, RULES, firing

ROOT = Path(__file__).parents[3]
HEALTHY = """
exactly_once_worker_state{state="working"} 1.0
exactly_once_worker_state{state="stopped"} 0.0
exactly_once_worker_state{state="waiting"} 0.0
exactly_once_lanes_owned 2.0
exactly_once_partitions_parked 0.0
exactly_once_parked_oldest_seconds 0.0
exactly_once_parked_filled_ratio 0.0
exactly_once_schedule_overdue_seconds 0.0
exactly_once_consumer_lag_records{topic="t",partition="0"} 0.0
exactly_once_input_paused_seconds{topic="t"} 0.0
exactly_once_partition_held_back_seconds{topic="t",partition="0"} 0.0
exactly_once_outbox_oldest_seconds 0.0
exactly_once_events_handled_total 1000.0
exactly_once_records_set_aside_total 1.0
exactly_once_recoveries_total{cause="Unknown"} 1.0
exactly_once_kafka_partitions_offline{topic="t"} 0.0
exactly_once_kafka_partitions_below_min_isr{topic="t"} 0.0
exactly_once_kafka_partitions_under_replicated{topic="t"} 0.0
exactly_once_publish_seconds_bucket{le="5.0"} 100.0
exactly_once_publish_seconds_count 100.0
exactly_once_kafka_transactions_failed_total{cause="KafkaInDoubt"} 1.0
exactly_once_kafka_transactions_failed_total{cause="GenerationLost"} 1.0
process_start_time_seconds 1790000000.0
"""


def test_the_rules_ask_for_metrics_that_there_are() -> None:
    named = re.findall(r"\b([a-z]+(?:_[a-z]+)+)\b(?! ?\()", "".join(_expressions()))
    asked = {re.sub(r"_(bucket|count)$", "", name) for name in named}
    shown = set(re.findall(r"^# TYPE (\w+)", generate_latest().decode(), re.MULTILINE))

    assert len(asked) >= 6
    assert asked <= shown


def _expressions() -> list[str]:
    return re.findall(r"expr: (.*?)\n +(?:for|labels):", RULES.read_text(), re.DOTALL)


def test_prometheus_of_docker_compose_has_the_rules() -> None:
    assert "alerts.yml" in (ROOT / "compose/observe/prometheus.yml").read_text()
    assert "./compose/observe/alerts.yml:" in (ROOT / "docker-compose.yml").read_text()


def test_the_page_names_every_alert() -> None:
    page = (ROOT / "docs/deploying.md").read_text().split("## What to watch")[1].split("\n## ")[0]
    assert set(ALERTS) <= set(re.findall(r"`(\w+)`", page))


def test_every_rule_is_seen_to_fire_at_a_real_process() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests/integration").glob("**/*.py"))
    assert [alert for alert in ALERTS if f'"{alert}"' not in tests] == []


def test_every_rule_names_a_section_that_says_what_to_do() -> None:
    advice = dict(zip(ALERTS, re.findall(r"what_to_do: (.*)$", RULES.read_text(), re.MULTILINE), strict=True))
    for alert, told in advice.items():
        named = re.findall(r"(docs/\w+\.md), '(.+?)'", told)
        assert named, f"{alert} names no section"
        for page, section in named:
            assert re.search(rf"^##+ {re.escape(section)}$", (ROOT / page).read_text(), re.MULTILINE), (alert, section)


def replaced(line: str) -> str:
    """Return the healthy page with one line changed, or without the metric of that name."""
    name, _, _ = line.partition(" ")
    if name == line:
        return "\n".join(found for found in HEALTHY.splitlines() if not found.startswith(name))
    found = re.sub(rf"^{re.escape(name)} .*$", line, HEALTHY, flags=re.MULTILINE)
    return found if found != HEALTHY else f"{HEALTHY}{line}\n"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; `make alerts-test` brings it")
@pytest.mark.parametrize(
    ("page", "alerts"),
    [
        pytest.param(HEALTHY, set(), id="none"),
        pytest.param("", {"MetricsAbsent", "NoWorkerWorks"}, id="down"),
        pytest.param(replaced("exactly_once_worker_state"), {"MetricsAbsent", "NoWorkerWorks"}, id="no state"),
        pytest.param(replaced("exactly_once_consumer_lag_records"), {"LagUnknown"}, id="no lag"),
        pytest.param(replaced('exactly_once_consumer_lag_records{topic="t",partition="0"} 3'), {"LagGrows"}, id="lag"),
        pytest.param(
            replaced('exactly_once_consumer_lag_records{topic="t",partition="0"} 3').replace(
                'paused_seconds{topic="t"} 0', 'paused_seconds{topic="t"} 600'
            ),
            set(),
            id="lag of what is paused",
        ),
        pytest.param(
            replaced('exactly_once_consumer_lag_records{topic="t",partition="0"} 0x20 1+1x60').replace(
                'paused_seconds{topic="t"} 0.0', 'paused_seconds{topic="t"} 600+15x50 0x30'
            ),
            set(),
            id="lag of what was paused until now",
        ),
        pytest.param(
            replaced('exactly_once_input_paused_seconds{topic="t"} 86401'), {"InputPaused"}, id="paused for a day"
        ),
        pytest.param(
            replaced('exactly_once_partition_held_back_seconds{topic="t",partition="0"} 31'),
            {"HeldBack"},
            id="held back",
        ),
        pytest.param(replaced("exactly_once_outbox_oldest_seconds 31"), {"OldestUnpublishedRow"}, id="outbox"),
        pytest.param(replaced('exactly_once_calls_stuck{destination="bank"} 1'), {"CallsStuck"}, id="stuck calls"),
        pytest.param(replaced("exactly_once_partitions_parked 1"), {"Parked"}, id="parked"),
        pytest.param(
            replaced("exactly_once_partitions_parked 0x40 1x3 0x0 1x3 0x0 1x3 0x0 1x30"),
            {"Parked"},
            id="tried meanwhile",
        ),
        pytest.param(replaced("exactly_once_parked_oldest_seconds 3601"), {"KeysWait"}, id="a key waits"),
        pytest.param(replaced("exactly_once_parked_filled_ratio 0.8"), {"ParkingFills"}, id="parking fills"),
        pytest.param(replaced("exactly_once_schedule_overdue_seconds 61"), {"ScheduleOverdue"}, id="overdue"),
        pytest.param(replaced("exactly_once_dead_letters_waiting 1"), {"DeadLettersWait"}, id="dead letters"),
        pytest.param(replaced("exactly_once_records_set_aside_total 5"), {"RecordsSetAside"}, id="most are set aside"),
        pytest.param(
            replaced("exactly_once_records_set_aside_total 5").replace("handled_total 1000", "handled_total 1050"),
            set(),
            id="few are set aside",
        ),
        pytest.param(replaced('exactly_once_worker_state{state="working"} 0'), {"NoWorkerWorks"}, id="nobody works"),
        pytest.param(replaced('exactly_once_worker_state{state="stopped"} 1'), {"WorkerStopped"}, id="stopped"),
        pytest.param(replaced('exactly_once_worker_state{state="waiting"} 1'), {"WorkerWaits"}, id="waiting"),
        pytest.param(replaced('exactly_once_worker_state{state="recovering"} 1'), {"WorkerWaits"}, id="recovering"),
        pytest.param(replaced('exactly_once_worker_state{state="recovering"} 0x50 1x4 0x30'), set(), id="recovered"),
        pytest.param(
            replaced('exactly_once_worker_state{state="waiting"} ' + "1x0 0x0 " * 40)
            + '\nexactly_once_worker_state{state="recovering"} '
            + "0x0 1x0 " * 40,
            {"WorkerWaits"},
            id="waits and recovers by turns",
        ),
        pytest.param(
            replaced('exactly_once_recoveries_total{cause="Unknown"} 14'), {"WorkerRecovers"}, id="recoveries"
        ),
        pytest.param(
            replaced('exactly_once_kafka_partitions_offline{topic="t"} 1'), {"PartitionsOffline"}, id="offline"
        ),
        pytest.param(
            replaced('exactly_once_kafka_partitions_below_min_isr{topic="t"} 1'),
            {"PartitionsBelowMinIsr"},
            id="below min ISR",
        ),
        pytest.param(
            replaced('exactly_once_kafka_partitions_under_replicated{topic="t"} 1'),
            {"PartitionsUnderReplicated"},
            id="under-replicated",
        ),
        pytest.param(
            replaced('exactly_once_kafka_partitions_under_replicated{topic="t"} 0x40 1x15 0x30'),
            set(),
            id="a broker is restarted",
        ),
        pytest.param(replaced("exactly_once_publish_seconds_count 112"), {"PublishingSlow"}, id="slow to publish"),
        pytest.param(replaced("exactly_once_publish_seconds_count 108"), set(), id="some were slow to publish"),
        pytest.param(
            replaced("exactly_once_publish_seconds_count 320").replace('le="5.0"} 100', 'le="5.0"} 300'),
            set(),
            id="most are quick to publish",
        ),
        pytest.param(
            replaced('exactly_once_kafka_transactions_failed_total{cause="KafkaInDoubt"} 8'),
            {"KafkaTransactionsFail"},
            id="transactions fail",
        ),
        pytest.param(
            replaced('exactly_once_kafka_transactions_failed_total{cause="GenerationLost"} 20'), set(), id="rebalances"
        ),
        pytest.param(replaced("process_start_time_seconds 1x45 2x2 3x2 4x40"), {"ProcessRestarts"}, id="restarts"),
    ],
)
def test_each_rule_fires_at_its_own_trouble_and_at_no_other(page: str, alerts: set[str], tmp_path: Path) -> None:
    assert firing(page, tmp_path, HEALTHY) == alerts
