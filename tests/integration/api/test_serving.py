"""An API process as it is started and stopped."""

import os
import signal
import sys

import httpx
import pytest

from dev import processes
from dev.servers.places import free_port
from shared.settings import Settings
from tests.waiting import SECONDS_MAX, until


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_api_that_is_asked_to_stop_ends_with_0(settings: Settings, number: signal.Signals) -> None:
    port = free_port()
    env = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "HTTP_PORT": str(port),
        "API_AUTH": "off",
    }
    process = processes.start([sys.executable, "-m", "services.order", "api"], env=env)
    try:
        until(lambda: answers(port), "the API answers")
        processes.send(process, number)
        assert process.wait(SECONDS_MAX) == 0
    finally:
        processes.end([process], 0.0)
