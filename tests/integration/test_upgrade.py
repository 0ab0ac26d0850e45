"""As docs/upgrading.md promises, old processes work on the new schema, and a deployment loses and repeats nothing."""

import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.testing import until
from tests.dev.tree import ROOT, Tree
from tests.integration.running import Running

pytestmark = pytest.mark.proof

SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous commit's tree; the present one's in a clone without history; this tree itself without git."""
    root = tmp_path_factory.mktemp("previous")
    for commit in ("HEAD~1", "HEAD"):
        with (root / "tree.tar").open("wb") as file:
            done = subprocess.run(
                ["git", "archive", commit], cwd=ROOT, stdout=file, stderr=subprocess.DEVNULL, check=False
            )
        if done.returncode == 0:
            shutil.unpack_archive(root / "tree.tar", root / "tree")
            return root / "tree"
    return ROOT


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", SERVICES)
def test_the_previous_version_works_on_the_schema_of_this_one(
    service: str, previous: Path, breakable_servers: Servers, tmp_path: Path
) -> None:
    root = previous if (previous / "services" / service / "__main__.py").exists() else ROOT
    with Running(service, breakable_servers, tmp_path) as running:
        running.command(ROOT, "migrate", "--before-rollout")
        running.command(ROOT, "topics", "--consumed")
        running.start(root, "worker")
        running.start(root, "api")
        until(lambda: running.rows("SELECT 1 FROM exactly_once_position"), "it has its first positions")
        (topic, *_) = (
            str(name) for (name,) in running.rows("SELECT DISTINCT topic FROM exactly_once_position ORDER BY 1")
        )
        running.tell(topic, "a", "Unheard.v1")
        until(
            lambda: running.rows("SELECT 1 FROM exactly_once_position WHERE next_offset > 0"),
            "a record is read, and the next offset committed",
        )
        running.end(signal.SIGTERM)


PRE = '''"""A remark can be made."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Old code does not know it, so it has a default."""
    op.add_column("mayfly", sa.Column("remark", sa.Text, nullable=False, server_default="none"))
'''

POST = '''"""A remark is made by every process now."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Old code would fail from here on."""
    op.execute("ALTER TABLE mayfly ALTER COLUMN remark DROP DEFAULT")
'''

V2 = '''"""What is consumed in its second version."""

from services.mayfly import events


class SomethingHappened(events.SomethingHappened, version=2):
    """Consumed: with a remark."""

    remark: str
'''


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two trees: a new service, and its next version."""
    old, new = (Tree(tmp_path_factory.mktemp(name) / "tree") for name in ("old", "new"))
    for tree in (old, new):
        tree.run(sys.executable, "-c", MAKE)
    folder = new.root / "services/mayfly"
    (new.root / "migrations/mayfly/0002_pre_remark.py").write_text(PRE)
    (new.root / "migrations/mayfly/0003_post_remark.py").write_text(POST)
    (folder / "v2.py").write_text(V2)
    edit(
        folder / "models.py",
        "    times: Mapped[int]",
        "    remark: Mapped[str]\n    times: Mapped[int]",
    )
    edit(
        folder / "handlers.py",
        "(something_id=event.something_id, times=0)",
        '(something_id=event.something_id, times=0, remark="new")',
    )
    edit(
        folder / "handlers.py",
        "from services.mayfly.events",
        "from services.mayfly import v2\nfrom services.mayfly.events",
    )
    edit(
        folder / "handlers.py", "@service.on(SomethingHappened)", "@service.on(v2.SomethingHappened, SomethingHappened)"
    )
    edit(folder / "handlers.py", "event: SomethingHappened,", "event: v2.SomethingHappened | SomethingHappened,")
    return old.root, new.root


MAKE = """
from dev.service.copying import Consumed, files, write
from dev.service.names import Spellings
write(files(Spellings("mayfly"), Consumed()))
"""


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.timeout(600)
def test_a_deployment_in_the_order_of_the_page_loses_nothing_and_repeats_nothing(
    versions: tuple[Path, Path], breakable_servers: Servers, tmp_path: Path
) -> None:
    old, new = versions
    with Running("mayfly", breakable_servers, tmp_path) as running:

        def tell(key: str, version: int = 1, **more: str) -> None:
            running.tell("elsewhere.events", key, f"SomethingHappened.v{version}", something_id=key, **more)

        def until_noted(*keys: str) -> None:
            until(lambda: {key for (key,) in running.rows("SELECT something_id FROM mayfly")} == set(keys), f"{keys}")

        running.command(old, "migrate")
        running.command(new, "topics", "--consumed")
        running.start(old, "worker")
        tell("before")
        until_noted("before")

        # 1. The schema, while the old version works, is killed, and is started again.
        running.command(new, "migrate", "--before-rollout")
        tell("old-on-new-schema")
        until_noted("before", "old-on-new-schema")
        running.end(signal.SIGKILL)
        running.start(old, "worker")
        tell("old-started-again")
        until_noted("before", "old-on-new-schema", "old-started-again")
        # A producer that is ahead: the old version waits for the new one, and sets nothing aside.
        tell("too-new", 2, remark="of the second version")
        until(lambda: "unknown" in "".join(log.read_text() for log in tmp_path.glob("*.log")), "the old version waits")

        # 2. The code.
        running.end(signal.SIGTERM)
        running.start(new, "worker")
        tell("new")
        noted = ["before", "old-on-new-schema", "old-started-again", "too-new", "new"]
        until_noted(*noted)

        # 3. What the old version could not handle.
        running.command(new, "migrate")
        tell("after")
        until_noted(*noted, "after")
        running.end(signal.SIGTERM)
        assert running.rows("SELECT DISTINCT times FROM mayfly") == [(1,)]
        assert running.rows("SELECT count(*) FROM exactly_once_dead_letter") == [(0,)]
        assert running.rows("SELECT remark, count(*) FROM mayfly GROUP BY 1 ORDER BY 1") == [("new", 3), ("none", 3)]


def test_the_changelog_begins_with_the_version_of_this_tree() -> None:
    version = tomllib.loads((ROOT / "shared/pyproject.toml").read_text())["project"]["version"]
    sections = (ROOT / "shared/CHANGELOG.md").read_text().split("\n## ")[1:]
    assert sections[0].startswith(f"{version}\n")
    assert all("\n- In your services: " in section and "\n- Migrations: " in section for section in sections)
