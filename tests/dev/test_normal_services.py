"""What teams do with services passes our tests: a copy of this tree with two services that are stretched."""

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
    """A topic with a prefix; a dependency and settings of its own; one more container."""
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
        ("from dependency_injector", "from fractions import Fraction\n\nfrom dependency_injector"),
        ("from shared.container", "from services.mayfly.settings import MayflySettings\nfrom shared.container"),
        (
            "    service = providers.Object(SERVICE)\n",
            "    service = providers.Object(SERVICE)\n"
            "    settings_class = providers.Object(MayflySettings)\n"
            "    rate = providers.Singleton(Fraction, 1, 3)\n",
        ),
    )
    with (root / "compose" / f"{TALKER}.yml").open("a") as file:
        file.write("\n  mayfly-cache:\n    image: redis:8.0\n    restart: always\n")


def stretch_listener(root: Path) -> None:
    """It publishes nothing, consumes another team, and knows a second version of what it consumes before that is
    published.
    """
    service = root / "services" / LISTENER
    events = (service / "events.py").read_text()
    (consumed,) = re.findall(r"class (\w+)\(Keyed.*\n    \"\"\"Consumed: it is noted", events)
    (field,) = re.findall(r"    (\w+): Id", events)
    own = re.search(r"class MantisNoted.*?\n\n\n", events, re.DOTALL)
    assert own
    events = events.replace(own[0], "").replace("What the mantis service publishes, and its own view", "Its own view")
    events = events.replace("\n\nclass Keyed", '\n\nELSEWHERE = {"logistics.parcels"}\n\n\nclass Keyed')
    events += '''

class ParcelSent(Keyed, frozen=True, kw_only=True):
    """Consumed from another team."""

    topic: ClassVar[str] = "logistics.parcels"
'''
    (service / "events.py").write_text(events)
    topic = re.findall(rf"class {consumed}\(.*?topic: ClassVar\[str\] = (\".*?\")", events, re.DOTALL)[0]
    (service / "v2.py").write_text(
        f'''"""The second versions of what the mantis service consumes."""

from typing import ClassVar

from services.mantis.events import Keyed


class {consumed}(Keyed, frozen=True, kw_only=True):
    """Consumed: it is noted."""

    topic: ClassVar[str] = {topic}
    version: ClassVar[int] = 2
'''
    )
    (service / "handlers.py").write_text(
        f'''"""What the mantis service does about each event."""

from collections.abc import Iterable

from services.mantis import v2
from services.mantis.events import Keyed, ParcelSent, {consumed}
from services.mantis.models import Mantis
from shared.events import Event
from shared.service import Read, Service, on
from shared.session import Session


def note(key: str, session: Session) -> int:
    """Note that something was consumed about the aggregate `key`."""
    found = session.lock(Mantis, key)
    if found is None:
        found = Mantis({field}=key, times=0)
        session.add(found)
    found.times += 1
    return found.times


def happened(event: Keyed, session: Session) -> Iterable[Event]:
    """Note it, and publish nothing."""
    note(event.{field}, session)
    return ()


_mantis = Read(Mantis, lambda event, _: (event.{field},))

SERVICE = Service(
    name="mantis",
    routes=(
        on({consumed}, happened, _mantis),
        on(v2.{consumed}, happened, _mantis),
        on(ParcelSent, happened, _mantis),
    ),
    publishes=(),
)
'''
    )
    change(
        service / "api.py",
        ("        published = note(", "        times = note("),
        ("        call.publish(session, published)\n", ""),
        ("times=published.times", "times=times"),
    )
    (root / f"tests/unit/services/test_{LISTENER}.py").write_text(
        f'''"""What the mantis service does about each event, without a server."""

from services.mantis.events import ParcelSent
from services.mantis.handlers import happened
from services.mantis.models import Mantis
from tests.unit.services.memory import MemorySession


def test_a_parcel_of_another_team_is_noted() -> None:
    session = MemorySession()
    assert list(happened(ParcelSent({field}="a"), session)) == []
    found = session.lock(Mantis, "a")
    assert found is not None
    assert found.times == 1
'''
    )
    (root / f"tests/integration/test_{LISTENER}.py").write_text(
        f'''"""The mantis service on real servers: what it hears takes effect once, though it says nothing."""

from pathlib import Path

import pytest

from dev.servers import Servers
from services.mantis import v2
from services.mantis.events import ParcelSent, {consumed}
from tests.faults.crashing_worker import Plan
from tests.faults.rehearsal import Rehearsal


@pytest.mark.parametrize("after", [False, True])
def test_a_worker_is_killed_and_the_books_balance(servers: Servers, tmp_path: Path, after: bool) -> None:
    with Rehearsal("mantis", servers, tmp_path) as rehearsal:
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
    """All of it at once."""
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
    """Of the checks those that know services; the whole of `make check` is run for plain copies."""
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
