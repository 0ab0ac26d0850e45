"""`make servers` leaves two servers behind, ready for every service; `make servers-down` leaves nothing."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from dotenv import dotenv_values
from sqlalchemy import make_url

from dev.servers import background, service_names
from dev.servers.places import HOST, free_port
from shared.testing import until

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

    console = re.search(r"^console +(http://\S+/)$", printed, re.MULTILINE)
    assert console
    assert console[1] in (tmp_path / ".env.local").read_text()
    until(lambda: [name for name in service_names() if f'"h-{name}"' not in page(console[1])] == [], "all are shown")
    first = pids(tmp_path)
    assert len(first) == 1

    assert "are up already" in command("up")
    until(lambda: len(pids(tmp_path)) == 1 and pids(tmp_path) != first, "a new console, for there may be a new service")
    until(lambda: "What flows" in page(console[1]), "it is where it was")
    assert dotenv_values(tmp_path / ".env.local") == env

    assert "are down" in command("down")
    assert not (tmp_path / ".env.local").exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url.replace("{service}", "order"))
    assert pids(tmp_path) == set()
    assert page(console[1]) == ""
    assert "were not up" in command("down")


@pytest.mark.timeout(4 * COMMAND_SECONDS_MAX)
def test_servers_that_are_killed_leave_no_console(command: Command, tmp_path: Path) -> None:
    command("up")
    until(lambda: len(pids(tmp_path)) == 1, "the console runs")
    psutil.Process(int(json.loads((tmp_path / background.STATE).read_text())["pid"])).kill()
    until(lambda: pids(tmp_path) == set(), "it ends with them")


def test_a_console_whose_port_is_taken_has_another() -> None:
    port = free_port()
    assert background.console_port(port) == port
    with socket.create_server((HOST, port)):
        assert background.console_port(port) != port


def page(address: str) -> str:
    """Return the page of a console; nothing if there is none."""
    try:
        return httpx.get(address, trust_env=False, timeout=30).text
    except httpx.TransportError:
        return ""


def pids(root: Path) -> set[int]:
    """Return the consoles that run in a folder."""
    found = psutil.process_iter(["cwd", "cmdline"])
    return {one.pid for one in found if one.info["cwd"] == str(root) and "console" in (one.info["cmdline"] or ())[-1:]}
