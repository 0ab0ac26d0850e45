"""An API process as it is started and stopped."""

import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from dev import processes
from dev.servers.places import free_port
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_api_says_where_it_listens_and_ends_with_0_when_it_is_asked_to_stop(
    settings: Settings, number: signal.Signals, tmp_path: Path
) -> None:
    port = free_port()
    env = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "HTTP_PORT": str(port),
        "API_AUTH": "off",
        "LOG_FORMAT": "json",
    }
    with (tmp_path / "log").open("wb") as log:
        process = processes.start([sys.executable, "-m", "services.order", "api"], env=env, output=log)
    try:
        until(lambda: answers(port), "the API answers")
        processes.send(process, number)
        assert process.wait(SECONDS_MAX) == 0
    finally:
        processes.end([process], 0.0)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert ("api_listening", port) in [(line["event"], line.get("port")) for line in lines]
