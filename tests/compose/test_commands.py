"""The Makefile's targets and the commands of docs/compose.md, typed."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.compose import SECRETS
from dev.servers.places import free_port
from tests.compose.conftest import GIVEN, PROJECT

ROOT = Path(__file__).parents[2]
APIS = ("ORDER_PORT", "INVENTORY_PORT", "PAYMENT_PORT")
PORTS = (*APIS, "KAFKA_PORT", "POSTGRES_PORT", "PAYMENT_BANK_PORT", "CONSOLE_PORT")
CONFIRMED = "for _ in {1..600}; do curl -sS localhost:8000/orders | grep CONFIRMED && break; sleep 0.1; done"


def blocks(page: str) -> list[str]:
    """Return a page's shell commands."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


class Copy:
    """A copy of this tree, like a fresh clone, with free ports."""

    def __init__(self, place: Path) -> None:
        self.place = place
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
            if (ROOT / name).exists():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, place / name)
        self.ports = {name: str(free_port()) for name in PORTS}

    def run(self, script: str) -> str:
        """Run a bash script, which must succeed; return its output."""
        for number, name in enumerate(APIS):
            script = script.replace(f"800{number}", self.ports[name])
        hidden = {"COMPOSE_PROFILES", "MAKEFLAGS", "MAKELEVEL", *GIVEN}
        outer = {name: value for name, value in os.environ.items() if name not in hidden}
        done = subprocess.run(
            ["bash", "-c", "set -e\n" + script],
            cwd=self.place,
            env={**outer, **self.ports, "COMPOSE_PROJECT_NAME": PROJECT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    made = Copy(tmp_path)
    yield made
    made.run("make down VOLUMES=1")


def test_what_the_page_says_of_docker_compose_is_so(copy: Copy) -> None:
    up, token, then = blocks("compose.md")
    orders = blocks("quickstart.md")[1]

    output = copy.run("\n".join([up, token, orders, CONFIRMED, then]))

    assert '"state":"CONFIRMED"' in output
    assert "the two systems agree" in output
    assert "order-worker-1" in output
    assert f"The console: http://127.0.0.1:{copy.ports['CONSOLE_PORT']}/" in output
    assert "inventory-worker-3" in output
    assert copy.run("docker compose ps --all --quiet") == ""
    volumes = f"docker volume ls --quiet --filter label=com.docker.compose.project={PROJECT}"
    kept = copy.run(volumes).split()
    assert {f"{PROJECT}_kafka", f"{PROJECT}_postgres"} <= set(kept)

    again = copy.run(
        f"make up\n{token}curl -sS localhost:8000/orders"
    )  # the passwords of the first start, and its data

    assert '"state":"CONFIRMED"' in again
    copy.run("make down VOLUMES=1")
    assert copy.run(volumes) == ""


def test_passwords_are_made_once_and_nobody_else_may_read_them(copy: Copy) -> None:
    (copy.place / ".env").write_text("LOG_LEVEL=debug")  # a user's own, without a newline at its end

    copy.run("make .env")
    first = (copy.place / ".env").read_text()
    copy.run("make .env")

    assert (copy.place / ".env").read_text() == first
    lines = [line for line in first.splitlines() if line]
    assert lines[0] == "LOG_LEVEL=debug"
    made = dict(line.split("=") for line in lines[1:])
    assert list(made) == [*SECRETS, "API_TOKEN_SHA256", "COMPOSE_PROFILES"]
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    assert all(re.fullmatch(r"[0-9a-f]{64}", made[name]) for name in SECRETS)
    assert made["API_TOKEN_SHA256"] == hashlib.sha256(made["API_TOKEN"].encode()).hexdigest()
    (copy.place / ".env").unlink()
    copy.run("make .env")
    assert (copy.place / ".env").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("profiles", "given"),
    [("", "single"), ("ui,observe", "single,ui,observe"), ("cluster", "cluster"), ("cluster,ui", "cluster,ui")],
)
def test_there_is_always_exactly_one_kafka(copy: Copy, profiles: str, given: str) -> None:
    output = copy.run(f"make --dry-run up PROFILES={profiles}")

    assert f"COMPOSE_PROFILES={given} docker compose" in output


def test_the_profiles_of_the_last_start_are_those_of_every_command_after_it(copy: Copy) -> None:
    """Docker itself is not needed for that."""
    docker = copy.place / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    starts = (("cluster,ui", "cluster,ui", "none"), ("observe", "single,observe", "otlp"), ("", "single", "none"))
    for profiles, given, traces in starts:
        copy.run(f"PATH=$PWD:$PATH make up PROFILES={profiles}")

        env = copy.place / ".env"
        assert [line for line in env.read_text().splitlines() if "PROFILES" in line] == [f"COMPOSE_PROFILES={given}"]
        assert [line for line in env.read_text().splitlines() if "TRACES" in line] == [f"TRACES={traces}"]
        assert env.stat().st_mode & 0o077 == 0


def test_the_demo_in_containers_balances(copy: Copy) -> None:
    """A worker, a caller, an API, a broker and the database die in the middle of it, and the bank fails."""
    (copy.place / ".venv").symlink_to(ROOT / ".venv")

    output = copy.run("make demo-compose ORDERS=600 SECONDS=60 KILLS=8 FREEZES=1 SEED=5")

    for victim in (r"\w+ worker \d", r"payment caller \d", r"\w+ api", "kafka", "postgres"):
        assert re.search(f"killed +{victim}", output), output
    assert "froze   the bank" in output
    assert "It balances." in output
