"""After `make without-proof` in a copy of this tree, the rest is whole and green, also without the demo."""

import re
from pathlib import Path

import pytest

from dev.without import files, parts
from tests.dev.tree import Tree, modules

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1_200)]
GOING = files(parts().proof.files)
MINE = (Path("tests/unit/test_mine.py"), Path("tests/integration/test_mine.py"), Path("tests/unit/mine/test_more.py"))
"""Tests that a team has added, beside the library's."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A copy without the proof."""
    tree = Tree(tmp_path_factory.mktemp("copy") / "tree")
    tree.without_own_services()
    for place in MINE:
        (tree.root / place).parent.mkdir(exist_ok=True)
        (tree.root / place).write_text("def test_mine() -> None:\n    pass\n")
    tree.commit("tests of ours")

    (tree.root / "shared/notes.txt").write_text("not in git")
    told = tree.make("without-proof", fails=True)
    assert "Nothing was changed. Commit your changes first" in told
    assert tree.status() == "?? shared/notes.txt\n"
    (tree.root / "shared/notes.txt").unlink()

    told = tree.make("without-proof", fails=True)
    assert f"{len(GOING)} files. There is no terminal to ask on; use FORCE=1" in told
    assert "Nothing was changed. You did not confirm." in tree.answer("no", "make", "without-proof")
    assert tree.status() == ""

    assert "The proof is gone." in tree.answer("yes", "make", "without-proof")
    return tree


def test_the_library_stays_as_it_is_and_so_do_tests_of_a_team(tree: Tree) -> None:
    changed = tree.git("status", "--short", "shared", "services", "migrations", "compose", *map(str, MINE))
    assert changed == ""
    assert [place for place in GOING if (tree.root / place).exists()] == []


def test_nothing_that_is_left_names_what_is_gone(tree: Tree) -> None:
    gone = re.compile(modules(GOING))
    found = [
        f"{path.relative_to(tree.root)}:{number}: {line.strip()}"
        for folder in ("dev", "services", "shared", "tests", "migrations")
        for path in (tree.root / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if gone.search(line)
    ]
    assert found == []


def test_every_link_of_a_page_that_is_left_leads_to_a_file(tree: Tree) -> None:
    pages = [tree.root / "README.md", *(tree.root / "docs").glob("*.md")]
    found = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert found == []


def test_what_is_left_passes_make_test(tree: Tree) -> None:
    """Lint, types, contracts and service tests on real servers pass; the storm is played here."""
    told = tree.make("test", "BESIDE=2", "ARGS=--ignore=tests/e2e -vv")
    for place in MINE[:2]:
        assert f"{place}::test_mine" in told


def test_the_demo_can_go_too_and_services_are_made_from_what_is_left(tree: Tree) -> None:
    tree.commit("without the proof")
    tree.make("without-demo", "FORCE=1")
    tree.make("service", "NAME=mayfly", "FROM=example")
    tree.make("check")
    tree.pytest("tests/unit", "tests/integration/test_mayfly.py")
    assert "No rule to make target" in tree.make("without-proof", "FORCE=1", fails=True)
    assert [place for place in files(parts().both) if (tree.root / place).exists()] == []
