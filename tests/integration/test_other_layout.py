"""The library works in a repository of another layout: docs/choosing.md, carried out."""

import os
import re
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from dev.servers import Servers
from dev.servers.process import environment

ROOT = Path(__file__).parents[2]
COPY, COMMANDS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/choosing.md").read_text(), re.DOTALL)[:2]
SECONDS_MAX = 100
EXIT_MISCONFIGURED = 78


class Layout(NamedTuple):
    """Names of packages."""

    top: str
    library: str
    services: str

    def spell(self, text: str) -> str:
        """Spell with these names what the page spells with its own."""
        for theirs, ours in (("acme.eventing", self.library), ("acme.apps", self.services), ("acme", self.top)):
            text = text.replace(theirs, ours).replace(theirs.replace(".", "/"), ours.replace(".", "/"))
        return text


@pytest.fixture(params=[("acme", "acme.eventing", "acme.apps"), ("backend", "backend.exactly_once", "backend")])
def layout(request: pytest.FixtureRequest) -> Layout:
    """The page's layout, and one with other names and the services beside the library."""
    return Layout(*request.param)


@pytest.fixture
def repository(tmp_path: Path, layout: Layout) -> Path:
    """A user's repository, after the page's commands."""
    subprocess.run(
        ["bash", "-c", f"set -e -o pipefail\n{layout.spell(COPY)}"],
        cwd=tmp_path,
        env=environment(TEMPLATE=str(ROOT)),
        check=True,
        timeout=SECONDS_MAX,
    )
    return tmp_path


def run(repository: Path, command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page there, without this repository's modules."""
    words = [sys.executable, *shlex.split(command)[1:]]
    given = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | env
    return subprocess.run(
        words, cwd=repository, env=given, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


IMPORT_ALL = """
import importlib, pkgutil
import acme.eventing as library
names = [found.name for found in pkgutil.walk_packages(library.__path__, f"{library.__name__}.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

ASK_API = """
from starlette.testclient import TestClient
from acme.apps.payment.container import PaymentContainer
with TestClient(PaymentContainer().application()) as client:
    print(client.put("/accounts/ada", json={"currency": "EUR"}).status_code)
    deposit = {"amount": 10000, "currency": "EUR"}
    print(client.post("/accounts/ada/deposits", json=deposit, headers={"Idempotency-Key": "layout-1"}).status_code)
    print(client.get("/accounts/ada").json())
"""

FOLLOW_COMMANDS = """
import argparse
from acme.eventing import command
from acme.eventing.container import resolve
targets, waiting = [], [command.parser("payment")]
while waiting:
    parser = waiting.pop()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            waiting += action.choices.values()
    if target := parser.get_default("target"):
        targets.append(resolve(target))
print(len(targets))
"""


def answer(repository: Path, program: str, **env: str) -> str:
    """Run a program there; return its output."""
    (repository / "asking.py").write_text(program)
    done = run(repository, "python asking.py", PYTHONPATH=".", **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.proof
def test_a_service_works_there_and_its_messages_name_what_is_typed_there(
    repository: Path, layout: Layout, servers: Servers
) -> None:
    name = f"other_layout_{uuid.uuid4().hex[:12]}"
    servers.postgres.create_database(name)
    env = {"KAFKA_BOOTSTRAP_SERVERS": servers.kafka.bootstrap, "DATABASE_URL": servers.postgres.dsn(name)}
    module = layout.spell("python -m acme.apps.payment")
    commands = [line.rpartition(" ")[0].removesuffix(" positions") for line in layout.spell(COMMANDS).splitlines()]
    assert commands == [module] * 3
    try:
        refused = run(repository, f"{module} worker", **env)
        assert refused.returncode == EXIT_MISCONFIGURED, refused.stderr
        assert f"run `{module} migrate` first" in refused.stderr

        migrated = run(repository, f"{module} migrate", **env)
        assert migrated.returncode == 0, migrated.stderr

        shown = run(repository, f"{module} positions show", **env)
        assert "payment.outbox" in shown.stdout + shown.stderr or "lane" in shown.stdout + shown.stderr
        assert "Traceback" not in shown.stderr
        assert "services.payment" not in shown.stdout + shown.stderr

        told = answer(repository, layout.spell(ASK_API), API_AUTH="off", **env)
        assert "10000" in told.splitlines()[-1], told
    finally:
        servers.postgres.drop_database(name)


def test_nothing_is_left_of_the_old_names(repository: Path) -> None:
    """Sentences may have them, and the fallback where nothing tells the package."""
    found = [
        f"{path.relative_to(repository)}: {line.strip()}"
        for path in repository.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"^\s*(from|import) (shared|services|migrations)\b|[\"'](shared|services)\.", line)
    ]
    assert found == []


def test_the_library_is_copied_as_it_is_and_all_of_it_can_be_imported(repository: Path, layout: Layout) -> None:
    copy = repository / layout.library.replace(".", "/")
    modules = sorted(path.relative_to(ROOT / "shared") for path in (ROOT / "shared").rglob("*.py"))
    scripts = [path for path in modules if path.parent.name == "alembic"]  # Alembic runs them
    assert [path for path in modules if (copy / path).read_bytes() != (ROOT / "shared" / path).read_bytes()] == []
    assert int(answer(repository, layout.spell(IMPORT_ALL))) == len(modules) - len(scripts) - 1


def test_every_command_of_an_operator_leads_somewhere_there(repository: Path, layout: Layout) -> None:
    """Strings name their modules."""
    assert int(answer(repository, layout.spell(FOLLOW_COMMANDS))) > 10
