"""The command: it prints its address, shows the services beside it, and ends when it is told to."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.servers import Servers
from dev.servers.process import environment
from shared.testing import SECONDS_MAX, databases, until

ROOT = Path(__file__).parents[3]
SERVICES = ("inventory", "order", "payment")


@pytest.fixture
def address(servers: Servers) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with databases.migrated(servers.postgres, *SERVICES) as settings:
        env = environment(
            KAFKA_BOOTSTRAP_SERVERS=servers.kafka.bootstrap,
            DATABASE_URL=settings.database_url.get_secret_value(),
            API_AUTH="off",
            CONSOLE_PORT="0",
        )
        with subprocess.Popen(
            [sys.executable, "-m", "services.order", "console"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            line = next((line for line in lines if line.startswith("console: ")), "")
            found = re.fullmatch(r"console: (http://127\.0\.0\.1:\d+)/\n", line)
            assert found is not None, line
            try:
                yield found[1], process
            finally:
                process.kill()


def test_it_shows_the_services_beside_it_and_ends_at_once(address: tuple[str, "subprocess.Popen[str]"]) -> None:
    place, process = address
    with httpx.Client(base_url=place, timeout=SECONDS_MAX) as browser:

        def shown() -> bool:
            page = browser.get("/").text
            return all(f'<h2 id="h-{name}">' in page for name in SERVICES) and "no worker" in page

        until(shown, "all services are shown", SECONDS_MAX)
        assert browser.get("/", headers={"Host": "evil.example"}).status_code == 400
        with browser.stream("GET", "/live/flow") as stream:
            assert next(stream.iter_lines()).startswith("data: {")
            process.send_signal(signal.SIGTERM)  # an open window does not hold it up
            assert process.wait(SECONDS_MAX) == 0


def test_without_a_token_it_is_refused_in_a_sentence() -> None:
    env = environment(
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        DATABASE_URL="postgresql://me@127.0.0.1:1/{service}",
        CONSOLE_PORT="0",
        API_TOKENS="",
    )
    done = subprocess.run(
        [sys.executable, "-m", "services.order", "console"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )

    assert "API_TOKENS: without a token" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == os.EX_CONFIG
