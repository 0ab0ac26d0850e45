"""The library works when installed, in a repository with other names: docs/installing.md, executed."""

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.servers import Servers
from dev.service.copying import Consumed, files
from dev.service.names import Spellings
from shared.testing import outside, until
from tests.integration.running import TIMEOUTS, Running

ROOT = Path(__file__).parents[2]
INSTALL, SERVICE = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/installing.md").read_text(), re.DOTALL)[:2]
SECONDS_MAX = 300.0
"""Bounds an installation with an empty uv cache."""
INSTEAD = (
    (r"\bfrom shared\b", "from exactly_once"),
    (r"\bmigrations\.library\b", "exactly_once.revisions"),
    (r"\bservices\.", "acme.apps."),
)
"""This repository's names, and those of the other one."""


def shell(script: str, folder: Path) -> str:
    """Run commands in `folder`, with this environment's tools and the index configured for pip."""
    ours = ("MAKE", "MFLAGS", "PYTHON", "VIRTUAL")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    tools = ROOT / ".venv/bin"
    asked = [str(tools / "python"), "-m", "pip", "config", "get", "global.index-url"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if index := env.get("UV_DEFAULT_INDEX") or env.get("PIP_INDEX_URL") or told:
        env["UV_DEFAULT_INDEX"] = index
    env |= {"UV_SYSTEM_CERTS": "1", "TEMPLATE": str(ROOT), "PATH": f"{tools}:{env['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]  # the environment is installed first


@pytest.fixture(scope="module")
def name() -> str:
    """The name of a service that no other test has: the servers are shared."""
    return f"tally_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def repository(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's repository, with one more service: the skeleton with that repository's names."""
    root = tmp_path_factory.mktemp("repository")
    shell(INSTALL, root)
    shell(SERVICE, root)
    for place, text in files(Spellings(name), Consumed(topic=f"{name}.consumed")).items():
        if place.parts[0] in ("services", "migrations"):
            file = root / "acme" / Path(*("apps", *place.parts[1:]) if place.parts[0] == "services" else place.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            for old, new in INSTEAD:
                text = re.sub(old, new, text)  # noqa: PLW2901
            file.write_text(text)
    return root


@pytest.fixture
def running(name: str, repository: Path, servers: Servers, tmp_path: Path) -> Iterator[Running]:
    program = [str(repository / ".venv/bin/python"), "-m", f"acme.apps.{name}"]
    with Running(name, servers, tmp_path, program) as running:
        yield running


def test_nothing_there_is_from_this_tree(repository: Path) -> None:
    """The library is not in that repository, and nothing there knows its name here."""
    found = shell("grep -rnE '(from|import) (shared|services|migrations)' acme || true", repository)
    assert found == ""
    where = shell(".venv/bin/python -c 'import exactly_once; print(exactly_once.__file__)'", repository)
    assert Path(where.strip()).is_relative_to(repository / ".venv")


def test_an_event_takes_effect_once_and_is_published_once(
    name: str, repository: Path, running: Running, servers: Servers
) -> None:
    """A worker is killed, and an event comes twice."""

    def tell(key: str, event_id: str) -> None:
        running.tell(f"{name}.consumed", key, "SomethingHappened.v1", event_id, something_id=key)

    def until_noted(**times: int) -> None:
        until(lambda: set(running.rows(f"SELECT something_id, times FROM {name}")) == set(times.items()), f"{times}")

    assert f"python -m acme.apps.{name}" in running.command(repository, "--help")
    running.command(repository, "migrate")
    running.command(repository, "topics", "--consumed")
    running.start(repository, "worker")
    tell("a", "event-1")
    until_noted(a=1)
    running.end(signal.SIGKILL)
    tell("a", "event-1")
    tell("b", "event-2")
    running.start(repository, "worker")
    until_noted(a=1, b=1)
    until(lambda: not running.rows("SELECT 1 FROM exactly_once_outbox"), "everything is published")
    assert "lane-0" in running.command(repository, "positions", "show")

    published = outside.read(servers.kafka.bootstrap, f"{name}.events", int(TIMEOUTS["PARTITIONS"]))
    assert sorted(record.key for record in published) == ["a", "b"]


def test_its_types_come_with_it(name: str, repository: Path) -> None:
    mypy = "cd acme/.. && mypy --python-executable .venv/bin/python --strict --explicit-package-bases -p acme"
    assert "Success" in shell(mypy, repository)
    wrong = repository / "acme/wrong.py"
    wrong.write_text("from exactly_once.settings import Settings\n\nport: str = Settings().http_port\n")
    told = shell(f"{mypy} || true", repository)
    wrong.unlink()
    assert 'Incompatible types in assignment (expression has type "int", variable has type "str")' in told
