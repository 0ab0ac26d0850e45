"""What the README says of the tree, the targets and the files is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
MAKEFILE = "\n".join(path.read_text() for path in (ROOT / "Makefile", *(ROOT / "dev").glob("*.mk")))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def block(after: str) -> str:
    """The first fenced block after a heading."""
    return README.split(after, 1)[1].split("```", 2)[1]


def test_the_tree_lists_every_module_of_shared_and_no_other() -> None:
    listed = re.findall(r"^ {2}(\w+\.py) ", block("## What you find where"), re.MULTILINE)

    assert sorted(listed) == sorted(path.name for path in (ROOT / "shared").glob("*.py") if path.name != "__init__.py")


def test_the_tree_lists_every_folder_at_the_top_and_no_other() -> None:
    listed = re.findall(r"^(\w+)/ ", block("## What you find where"), re.MULTILINE)

    tracked = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert sorted(listed) == sorted(tracked)


def test_the_modules_come_in_the_order_of_a_records_way() -> None:
    way = re.findall(r"(\w+\.py) ", block("## The way of one record"))
    first_seen = list(dict.fromkeys(name for name in way if "/" not in name and name != "handlers.py"))
    listed = re.findall(r"^ {2}(\w+\.py) ", block("## What you find where"), re.MULTILINE)

    assert [name for name in listed if name in first_seen] == first_seen


TARGETS = sorted(
    set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE))
)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_nothing_is_left_to_be_filled_in() -> None:
    assert re.findall(r"^<\w+>$", README, re.MULTILINE) == []
