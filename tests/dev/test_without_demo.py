"""After `make without-demo` in a copy of this tree, the rest is whole and names nothing that is gone."""

import re

import pytest

from dev.without import DEMO, files, parts
from tests.dev.tree import Tree

pytestmark = pytest.mark.proof
GOING = files(parts().demo.files)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A copy without the demo."""
    tree = Tree(tmp_path_factory.mktemp("copy") / "tree")
    tree.without_own_services()

    (tree.root / "services" / "order" / "notes.txt").write_text("not in git")
    told = tree.make("without-demo", fails=True)
    assert "Nothing was changed. Commit your changes first" in told
    assert tree.status() == "?? services/order/notes.txt\n"
    (tree.root / "services" / "order" / "notes.txt").unlink()

    told = tree.make("without-demo", fails=True)
    assert "There is no terminal to ask on; use FORCE=1" in told
    assert "Nothing was changed. You did not confirm." in tree.answer("no", "make", "without-demo")
    assert tree.status() == ""

    assert "The demo is gone." in tree.answer("yes", "make", "without-demo")
    return tree


def test_the_demo_is_gone_and_one_service_is_left(tree: Tree) -> None:
    assert [place for place in GOING if (tree.root / place).exists()] == []
    assert [path.parent.name for path in (tree.root / "services").glob("*/__main__.py")] == ["example"]


def test_no_code_imports_what_is_gone(tree: Tree) -> None:
    """This includes imports that happen only when a test runs."""
    gone = re.compile(rf"services\.({'|'.join(DEMO)})\b|dev\.(balance|bench|demo|system)\b|tests\.e2e")
    found = [
        f"{path.relative_to(tree.root)}:{number}: {line.strip()}"
        for folder in ("dev", "services", "shared", "tests", "migrations")
        for path in (tree.root / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if gone.search(line) and re.search(r"import |\"-m\"|import_module", line)
    ]
    assert found == []


@pytest.mark.timeout(600)
def test_what_is_left_passes_every_check(tree: Tree) -> None:
    tree.make("check")


@pytest.mark.timeout(600)
def test_what_is_left_passes_its_tests(tree: Tree) -> None:
    """All are collected. Tests of parts without the demo are the same as here, and do not run again."""
    tree.pytest("--collect-only")
    tree.pytest("tests/unit")
    told = tree.pytest(
        *(
            "tests/integration/test_example.py",
            "tests/integration/test_migrations.py",
            "tests/dev/test_service.py",
        ),
        *("-k", "not new_services", "-vv"),
    )
    # Each line of a result; the slowest are named once more at the end.
    assert len(re.findall(r"test_example\.py::test_a_worker_is_killed_and_the_books_balance\[\S+\] PASSED", told)) == 3


@pytest.mark.timeout(600)
def test_a_service_is_made_from_the_one_that_is_left(tree: Tree) -> None:
    tree.make("service", "NAME=mayfly", "FROM=example")
    tree.pytest("tests/unit/services", "tests/integration/test_mayfly.py")
    assert "mayfly consumes ExampleNoted of example" in tree.make("service-remove", "NAME=example", fails=True)
    tree.make("service-remove", "NAME=mayfly")


def test_the_demo_cannot_be_removed_twice(tree: Tree) -> None:
    assert "No rule to make target" in tree.make("without-demo", "FORCE=1", fails=True)
