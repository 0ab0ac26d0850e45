"""The library works in a repository of another layout: docs/choosing.md, carried out."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dev.servers import Servers
from dev.servers.process import environment

ROOT = Path(__file__).parents[2]
COPY, COMMANDS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/choosing.md").read_text(), re.DOTALL)[:2]
SECONDS_MAX = 100
EXIT_REFUSED = 78


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's repository, after the commands of the page."""
    subprocess.run(
        ["bash", "-c", f"set -e -o pipefail\n{COPY}"],
        cwd=tmp_path,
        env=environment(TEMPLATE=str(ROOT)),
        check=True,
        timeout=SECONDS_MAX,
    )
    return tmp_path


def run(repository: Path, command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page there; nothing of this repository can be imported."""
    words = [sys.executable, *shlex.split(command)[1:]]
    given = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | env
    return subprocess.run(
        words, cwd=repository, env=given, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def test_a_service_works_there_and_its_messages_name_what_is_typed_there(repository: Path, servers: Servers) -> None:
    name = f"other_layout_{os.getpid()}"
    servers.postgres.create_database(name)
    env = {"KAFKA_BOOTSTRAP_SERVERS": servers.kafka.bootstrap, "DATABASE_URL": servers.postgres.dsn(name)}
    module = "python -m acme.apps.payment"
    assert [line.rpartition(" ")[0].removesuffix(" positions") for line in COMMANDS.splitlines()] == [module] * 3
    try:
        refused = run(repository, f"{module} worker", **env)
        assert refused.returncode == EXIT_REFUSED, refused.stderr
        assert f"run `{module} migrate` first" in refused.stderr

        migrated = run(repository, f"{module} migrate", **env)
        assert migrated.returncode == 0, migrated.stderr

        shown = run(repository, f"{module} positions show", **env)
        assert "payment.outbox" in shown.stdout + shown.stderr or "lane" in shown.stdout + shown.stderr
        assert "Traceback" not in shown.stderr
        assert "services.payment" not in shown.stdout + shown.stderr
    finally:
        servers.postgres.drop_database(name)


def test_nothing_is_left_of_the_old_names(repository: Path) -> None:
    """But for sentences, and for the fallback where nothing tells the package."""
    found = [
        f"{path.relative_to(repository)}: {line.strip()}"
        for path in repository.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"^\s*(from|import) (shared|services|migrations)\b|[\"'](shared|services)\.", line)
    ]
    assert found == []


def test_every_command_of_an_operator_leads_somewhere_there(repository: Path) -> None:
    """Their modules are named by strings."""
    done = run(
        repository,
        'python -c "import ast, importlib, pathlib; '
        "tree = ast.parse(pathlib.Path('acme/eventing/command.py').read_text()); "
        "found = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) "
        "and n.value.startswith('acme.eventing.') and ':' in n.value]; "
        "[getattr(importlib.import_module(t.split(':')[0]), t.split(':')[1]) for t in found]; print(len(found))\"",
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
