"""docs/one-more-event.md: every difference is applied, and the tests say what the page says."""

import subprocess
from pathlib import Path

import pytest

from tests.dev.pages import blocks, compare
from tests.dev.tree import ROOT, SECONDS_MAX, Tree

pytestmark = pytest.mark.proof

PAGE = (ROOT / "docs/one-more-event.md").read_text()
BLOCKS = blocks(PAGE)
UNIT = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "example or final or page")
FAILING = ("test_handlers.py", "test_saga.py", "test_docs.py")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path / "tree")
    tree.without_own_services()
    return tree


@pytest.mark.timeout(SECONDS_MAX)
def test_the_page_can_be_followed_to_its_end(tree: Tree) -> None:
    python = str(ROOT / ".venv/bin/python")
    for kind, text in BLOCKS:
        if kind == "diff":
            subprocess.run(["git", "apply", "-"], cwd=tree.root, input=text, text=True, check=True)
        elif kind == "sh":
            tree.run("bash", "-c", f"set -e\n{text}")
        else:
            files = [f"tests/unit/services/{name}" for name in FAILING]
            told = tree.run(python, *UNIT, *files, fails=True).stdout
            for line in text.splitlines():
                compare(line, told)
    assert [kind for kind, _ in BLOCKS] == ["diff", "diff", "diff", "text", "diff", "sh"]
    tree.run(python, "-m", "mypy", "services/order")


def test_a_cell_that_is_missing_is_named(tree: Tree) -> None:
    """In each service with a table, it is the first failure after only the states changed."""
    for service, machine, event in (
        ("order", "order", "StockReserved"),
        ("inventory", "reservation", "OrderPlaced"),
        ("payment", "payment", "StockReserved"),
    ):
        models = tree.root / "services" / service / "models.py"
        last = '    CANCELLED = "CANCELLED"\n'
        assert last in models.read_text()
        models.write_text(models.read_text().replace(last, f'{last}    SENT = "SENT"\n'))
        told = tree.run(str(ROOT / ".venv/bin/python"), "-c", f"import services.{service}.handlers", fails=True).stderr
        assert f"the table of {machine} does not decide what {event} means in SENT: add a cell there" in told
