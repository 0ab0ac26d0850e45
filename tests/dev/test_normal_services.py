"""The tests pass with services as teams change them: a copy of this tree with two stretched ones."""

import re
from pathlib import Path

import pytest

from dev.servers import service_names
from tests.dev.tree import Tree

pytestmark = pytest.mark.proof

TALKER, LISTENER = "mayfly", "mantis"


def change(path: Path, *changes: tuple[str, str]) -> None:
    """Replace text that is there once."""
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{path.name}: {old!r}\n{text}"
        text = text.replace(old, new)
    path.write_text(text)


def stretch_talker(root: Path) -> None:
    """Give it a topic with a prefix, a dependency and settings of its own, and a container."""
    service = root / "services" / TALKER
    change(service / "events.py", (f'"{TALKER}.events"', '"acme.prod.mayflies"'))
    (service / "settings.py").write_text(
        f'''"""The settings of {TALKER} alone."""

from typing import Annotated

from pydantic import Field

from shared.settings import Settings


class MayflySettings(Settings):
    """What no other service needs."""

    mayfly_days_max: Annotated[int, Field(ge=1, description="a mayfly lives no longer")] = 1
'''
    )
    change(
        service / "container.py",
        ("from services.mayfly.handlers", "from fractions import Fraction\n\nfrom services.mayfly.handlers"),
        ("from shared.container", "from services.mayfly.settings import MayflySettings\nfrom shared.container"),
        (
            "    service = providers.Object(service)\n",
            "    service = providers.Object(service)\n"
            "    settings_class = providers.Object(MayflySettings)\n"
            "    rate = providers.Singleton(Fraction, 1, 3)\n",
        ),
    )
    with (root / "compose" / f"{TALKER}.yml").open("a") as file:
        file.write("\n  mayfly-cache:\n    image: redis:8.0\n    restart: always\n")


def stretch_listener(root: Path) -> None:
    """Let it publish nothing, consume another team's events, and know a second version before it is published."""
    service = root / "services" / LISTENER
    events = (service / "events.py").read_text()
    (consumed,) = re.findall(r"class (\w+)\(Keyed.*\n    \"\"\"Consumed: it is noted", events)
    (field,) = re.findall(r"    (\w+): Id", events)
    own = re.search(r"class MantisNoted.*?\n\n\n", events, re.DOTALL)
    assert own
    events = events.replace(own[0], "").replace("What the mantis service publishes, and its own view", "Its own view")
    events = events.replace("\n\nclass Keyed", '\n\nELSEWHERE = {"logistics.parcels"}\n\n\nclass Keyed')
    events += '''

class ParcelSent(Keyed, topic="logistics.parcels"):
    """Consumed: an event of another team."""
'''
    (service / "events.py").write_text(events)
    (topic,) = re.findall(rf"class {consumed}\(Keyed, topic=(\".*?\")", events)
    (service / "v2.py").write_text(
        f'''"""The second versions of what the mantis service consumes."""

from services.mantis.events import Keyed


class {consumed}(Keyed, topic={topic}, version=2):
    """Consumed: it is noted."""
'''
    )
    (service / "handlers.py").write_text(
        f'''"""What the mantis service does about each event."""

from services.mantis import v2
from services.mantis.events import Keyed, ParcelSent, {consumed}
from services.mantis.models import Mantis
from shared import Service, Session

service = Service("mantis")


@service.on({consumed}, v2.{consumed}, ParcelSent)
def note(event: Keyed, session: Session, known: Mantis | None) -> None:
    """Note it, and publish nothing."""
    if known is None:
        known = Mantis({field}=event.{field}, times=0)
        session.add(known)
    known.times += 1
'''
    )
    change(
        service / "api.py",
        (f"from services.{LISTENER}.events import MantisNoted\n", ""),
        (f"    session.publish(MantisNoted({field}={field}, times=known.times))\n", ""),
    )
    (root / f"tests/unit/services/test_{LISTENER}.py").write_text(
        f'''"""What the mantis service does about each event, without a server."""

from services.mantis.events import ParcelSent
from services.mantis.handlers import service
from services.mantis.models import Mantis
from shared.testing import Scene


def test_a_parcel_of_another_team_is_noted() -> None:
    scene = Scene(service)
    assert scene.when(ParcelSent({field}="a")) == []
    assert scene.row(Mantis, "a").times == 1
'''
    )
    (root / f"tests/integration/test_{LISTENER}.py").write_text(
        f'''"""The mantis service on real servers: what it consumes takes effect once, though it publishes nothing."""

from pathlib import Path

import pytest

from services.mantis import v2
from services.mantis.container import MantisContainer
from services.mantis.events import ParcelSent, {consumed}
from shared.testing import Plan, Rehearsal, Servers


@pytest.mark.parametrize("after", [False, True])
def test_a_worker_is_killed_and_the_books_balance(servers: Servers, tmp_path: Path, after: bool) -> None:
    with Rehearsal(MantisContainer, servers, tmp_path) as rehearsal:
        dying = rehearsal.worker(Plan("transaction.commit", after))
        rehearsal.tell([{consumed}({field}="a"), v2.{consumed}({field}="a"), ParcelSent({field}="a")])
        rehearsal.until_killed(dying)
        rehearsal.worker()
        rehearsal.until_drained()
        assert rehearsal.problems() == []
        assert rehearsal.connection.execute("SELECT times FROM {LISTENER}").fetchall() == [(3,)]
'''
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Both stretched at once."""
    tree = Tree(tmp_path_factory.mktemp("copy") / "tree")
    (source, *_) = service_names()
    tree.make("service", f"NAME={TALKER}", f"FROM={source}")
    tree.make("service", f"NAME={LISTENER}", f"FROM={TALKER}")
    stretch_talker(tree.root)
    (tree.root / "services" / LISTENER / "events.py").write_text(
        (tree.root / "services" / LISTENER / "events.py").read_text().replace('"mayfly.events"', '"acme.prod.mayflies"')
    )
    stretch_listener(tree.root)
    tree.run(str(tree.root / ".venv/bin/python"), "-m", "dev.env_example")
    tree.run(str(tree.root / ".venv/bin/ruff"), "check", "--quiet", "--fix", "services", "tests")
    tree.run(str(tree.root / ".venv/bin/ruff"), "format", "--quiet", "services", "tests")
    return tree


@pytest.mark.timeout(600)
def test_they_pass_the_checks_and_the_unit_tests(tree: Tree) -> None:
    """Only the checks that know services run here; plain copies get the whole `make check`."""
    python = str(tree.root / ".venv/bin/python")
    tree.run(python, "-m", "mypy", "services")
    tree.run(str(tree.root / ".venv/bin/lint-imports"))
    of_all = [f"tests/unit/services/test_{name}.py" for name in ("container", "contracts", "drift", "own_settings")]
    of_each = [f"tests/unit/services/test_{name}.py" for name in (TALKER, LISTENER)]
    tree.pytest(*of_all, *of_each, "tests/unit/test_settings.py", "tests/unit/test_container.py")
    assert "# MAYFLY_DAYS_MAX=1" in (tree.root / ".env.example").read_text()


@pytest.mark.timeout(600)
def test_they_work_and_pass_their_tests_on_real_servers(tree: Tree) -> None:
    told = tree.pytest(f"tests/integration/test_{LISTENER}.py", f"tests/integration/test_{TALKER}.py", "-k", "killed")
    assert "5 passed" in told
