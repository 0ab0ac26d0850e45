"""Prometheus itself, with the configuration and the rules that are shipped, scrapes a worker that works.

`make alerts-test` brings it.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev import processes
from dev.servers.places import HOST, free_port
from shared.testing import until
from tests.alerts import ALERTS
from tests.faults.stage import Stage

OBSERVE = Path(__file__).parents[3] / "compose" / "observe"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
STOP_SECONDS = 20.0
OF_OTHERS = {"exactly_once_http"}
"""What a worker has not got: an API has."""
WITHOUT_CAUSE = {
    "exactly_once_recoveries_total": "it has not recovered",
    "exactly_once_kafka_transactions_failed_total": "none has failed",
    "exactly_once_events_skipped_total": "every record was an event",
    "exactly_once_events_ignored_total": "every event had a handler",
}

pytestmark = [
    pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed; `make alerts-test` brings it"),
    pytest.mark.timeout(480),  # each of many conditions waits for some scrapes
]


def configuration(worker: str) -> str:
    """Return the shipped configuration, with the address of a worker in place of the names that docker compose knows,
    and with short intervals.
    """
    text = (OBSERVE / "prometheus.yml").read_text()
    label = "{__meta_dns_name: tally-worker}"
    there = f"    static_configs:\n      - {{targets: ['{worker}'], labels: {label}}}\n"
    text, names = re.subn(r"    dns_sd_configs:\n(?:      .*\n)+", there, text)
    text, intervals = re.subn(r"(scrape_interval|scrape_timeout|evaluation_interval): \d+s", r"\1: 1s", text)
    assert (names, intervals) == (1, 3)
    return text


@contextmanager
def prometheus(place: Path, worker: str) -> Iterator[httpx.Client]:
    """Run Prometheus, and ask it."""
    (place / "prometheus.yml").write_text(configuration(worker))
    shutil.copy(OBSERVE / "alerts.yml", place)
    address = f"{HOST}:{free_port()}"
    with (place / "prometheus.log").open("wb") as log:
        process = processes.start(
            [
                str(PROMETHEUS),
                f"--config.file={place / 'prometheus.yml'}",
                f"--storage.tsdb.path={place / 'data'}",
                f"--web.listen-address={address}",
            ],
            output=log,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", trust_env=False) as client:
            until(lambda: is_ready(client), "Prometheus is ready")
            yield client
    finally:
        processes.end([process], STOP_SECONDS)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False


def asked(client: httpx.Client, path: str, **parameters: str) -> Any:
    answer = client.get(f"/api/v1/{path}", params=parameters)
    assert answer.is_success, f"{parameters}: {answer.text}"
    return answer.json()["data"]


def queries(panels: list[dict[str, Any]]) -> list[str]:
    """Return what the dashboard asks."""
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [*found, *(one for panel in panels for one in queries(panel.get("panels", [])))]


def test_the_shipped_configuration_is_one() -> None:
    done = subprocess.run(
        [str(PROMTOOL), "check", "config", OBSERVE / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_sees_a_worker_and_answers_what_the_dashboard_asks(stage: Stage, tmp_path: Path) -> None:
    port = free_port()
    worker = stage.worker(metrics_port=port, log_format="json")
    stage.until(lambda: worker.ready()[0] == 200, "it works")
    with prometheus(tmp_path, f"{HOST}:{port}") as client:

        def targets() -> list[dict[str, Any]]:
            return list(asked(client, "targets")["activeTargets"])

        until(lambda: [one["health"] for one in targets()] == ["up"], "the worker is scraped")
        labels = targets()[0]["labels"]
        assert (labels["service"], labels["process"], labels["job"]) == ("tally", "worker", "services")

        def rules() -> dict[str, str]:
            groups = asked(client, "rules")["groups"]
            return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

        until(lambda: set(rules().values()) == {"ok"}, "every rule was evaluated")
        assert set(rules()) == set(ALERTS)

        def silent() -> list[str]:
            """Return the questions of the dashboard that have no answer."""
            dashboard = json.loads((OBSERVE / "dashboards" / "exactly-once.json").read_text())
            return [
                query
                for query in queries(dashboard["panels"])
                if not any(name in query for name in (*OF_OTHERS, *WITHOUT_CAUSE))
                and not asked(client, "query", query=query.replace("$service", ".*"))["result"]
            ]

        def answered() -> bool:
            stage.ask()
            return not silent()

        stage.until(answered, "each question of the dashboard has an answer")
        until(lambda: asked(client, "alerts")["alerts"] == [], "a worker that works alarms nobody")
