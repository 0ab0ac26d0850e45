"""`make servers` leaves two servers behind, ready for every service; `make servers-down` leaves nothing."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from dotenv import dotenv_values
from sqlalchemy import make_url

from dev.servers import service_names

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS_MAX = 300.0

Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """Run a command with a root of its own: the developer may have servers in the background too."""

    def run(*words: str) -> str:
        line = [sys.executable, "-m", "dev.servers", *words, "--root", str(tmp_path)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    yield run
    run("down")


@pytest.mark.timeout(4 * COMMAND_SECONDS_MAX)
def test_up_once_up_twice_and_down(command: Command, tmp_path: Path) -> None:
    printed = command("up")
    assert "up after" in printed
    env = dotenv_values(tmp_path / ".env.local")
    bootstrap, url = env["KAFKA_BOOTSTRAP_SERVERS"], env["DATABASE_URL"]
    assert bootstrap
    assert url
    password = make_url(url).password
    assert password
    assert password not in printed
    for name in service_names():
        typed = rf"HTTP_PORT=80\d\d .venv/bin/python -m services.{name} api"
        assert re.search(typed, (tmp_path / ".env.local").read_text())
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
    for name in service_names():
        assert f"{name}.events" in topics
        with psycopg.connect(url.replace("{service}", name)) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert ("exactly_once_outbox",) in tables

    assert "are up already" in command("up")
    assert dotenv_values(tmp_path / ".env.local") == env

    assert "are down" in command("down")
    assert not (tmp_path / ".env.local").exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url.replace("{service}", "order"))
    assert "were not up" in command("down")
