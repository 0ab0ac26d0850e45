"""A health check allows for the code's own budgets: a worker that recovers within them is healthy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import Settings
from shared.telemetry import metrics
from shared.worker.budgets import unready_seconds
from tests.faults.stage import StageSettings
from tests.unit.repository.test_manifest import document

ROOT = Path(__file__).parents[3]


def settings() -> Settings:
    return StageSettings.model_validate({"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://nowhere"})


def test_the_image_calls_no_worker_ill_that_recovers_within_its_budgets() -> None:
    (line,) = re.findall(r"^HEALTHCHECK (.*?) CMD", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    told = dict(re.findall(r"--([a-z-]+)=(\d+)", line))
    # The first of the probes that must all fail may come at the very moment in which the worker becomes unready.
    assert (int(told["retries"]) - 1) * int(told["interval"]) >= unready_seconds(settings())
    assert int(told["start-period"]) >= unready_seconds(settings())


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1)])
def test_the_image_asks_itself_and_no_proxy(ready: bool, code: int) -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (words,) = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", text, re.MULTILINE)
    server = metrics.serve("127.0.0.1", 0, lambda: (ready, "so it is"))
    try:
        _, *options, script = json.loads(words)
        assert "127.0.0.1:8000" in script
        done = subprocess.run(
            (sys.executable, *options, script.replace("127.0.0.1:8000", f"127.0.0.1:{server.server_port}")),
            env={"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == code, done.stderr
    assert ("503" in done.stderr) is (not ready)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "compose").glob("*.yml")))
def test_no_compose_file_sets_another_health_check_or_longer_budgets(name: str) -> None:
    text = (ROOT / "compose" / name).read_text()
    assert set(re.findall(r"healthcheck: (.*)", text)) <= {"{disable: true}"}
    assert not re.search(r"TRANSACTION_TIMEOUT_MS|SESSION_TIMEOUT_MS", text)


def test_kubernetes_restarts_no_worker_for_being_unready() -> None:
    """Readiness may fail for any length of time; the liveness probe needs no server."""
    worker = document("Deployment", "order-worker")
    assert re.findall(r"livenessProbe:\n +httpGet: \{path: (\S+),", worker) == ["/health/live"]
    assert re.findall(r"readinessProbe:\n +httpGet: \{path: (\S+),", worker) == ["/health/ready"]
    assert not re.search(r"TRANSACTION_TIMEOUT_MS|SESSION_TIMEOUT_MS", worker)
    # Kubernetes gives a rollout up after 600 s, unless the manifest says otherwise.
    (seconds,) = re.findall(r"progressDeadlineSeconds: (\d+)", worker) or ["600"]
    assert int(seconds) >= unready_seconds(settings())
