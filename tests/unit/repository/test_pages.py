"""The pages of docs/ and the README: their lines, their links, their index, and the site that is made from them."""

import re
from pathlib import Path

import pytest

from dev import settings_page
from dev.site import navigation, relinked

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INDEX = (ROOT / "docs" / "index.md").read_text()
TARGETS_THERE = "\n".join(path.read_text() for path in (ROOT / "Makefile", *(ROOT / "dev").glob("*.mk")))
COLUMNS = 120
FENCED = re.compile(r"^ *(`{3,}).*?^ *\1$", re.DOTALL | re.MULTILINE)


def prose(text: str) -> list[str]:
    """Return the lines of a page that are neither code nor rows of a table."""
    return [line for line in FENCED.sub("", text).splitlines() if not line.startswith("|")]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as a forge makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    words = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_lines_of_prose_are_short(page: Path) -> None:
    shown = [re.sub(r"\(https?:[^)]*\)", "", line) for line in prose(page.read_text())]

    assert [line for line in shown if len(line) > COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", FENCED.sub("", page.read_text()))

    for place, anchor in links:
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), place
        assert not anchor or anchor in anchors(target), f"{place}#{anchor}"


@pytest.mark.parametrize("folder", ["shared", "dev", "compose"])
def test_a_heading_that_a_message_names_is_there(folder: str) -> None:
    files = [path for kind in ("*.py", "*.yml") for path in (ROOT / folder).rglob(kind)]
    named = {found for path in files for found in re.findall(r"docs/([\w-]+\.md), '([^']+)'", path.read_text())}

    assert [
        (name, heading) for name, heading in named if f"\n## {heading}\n" not in (ROOT / "docs" / name).read_text()
    ] == []


def test_the_index_lists_every_page_once() -> None:
    listed = re.findall(r"^- \[.*?\]\((\S+?\.md)\)", INDEX, re.MULTILINE)

    assert sorted(listed) == sorted(page.name for page in PAGES[1:] if page.name != "index.md")


def test_the_page_of_the_library_lists_every_module_once() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    rooms = re.findall(r"^## `(shared/(?:\w+/)*)`\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    listed = [room + name for room, text in rooms for name in re.findall(r"^- `(\w+\.py)`: ", text, re.MULTILINE)]

    there = [path.relative_to(ROOT).as_posix() for path in (ROOT / "shared").rglob("*.py")]
    assert sorted(listed) == sorted(path for path in there if not path.endswith("__init__.py"))


def test_the_navigation_of_the_site_is_the_index() -> None:
    made = navigation(
        "# The pages\n\n## Start\n\n- [Try it](quickstart.md): typed\n- [Next](next.md)\n\n## Look up\n\n"
    )

    assert '{"Start" = [{"Try it" = "quickstart.md"}, {"Next" = "next.md"}]}' in made
    assert '{"Look up" = []}' in made


def test_links_lead_through_the_site() -> None:
    text = (
        "[a](docs/protocol.md#words) [b](LICENSE) [c](dev/) [d](https://x.y) [e](nowhere.md)\n```\n[f](LICENSE)\n```\n"
    )

    made, sources = relinked("README.md", text)

    assert made == (
        "[a](protocol.md#words) [b](source/LICENSE.md) [c](source/dev.md) [d](https://x.y) [e](nowhere.md)\n"
        "```\n[f](LICENSE)\n```\n"
    )
    assert sources == {"LICENSE", "dev"}
    assert relinked("docs/index.md", "[a](../README.md) [b](../dev/site.py)") == (
        "[a](readme.md) [b](source/dev/site.py.md)",
        {"dev/site.py"},
    )


def test_the_page_of_settings_is_that_of_the_code() -> None:
    page = settings_page.PLACE.read_text()

    assert page == settings_page.written(page), "write it again with: python -m dev.settings_page"


TARGETS = sorted(
    set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE))
)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", TARGETS_THERE, re.MULTILINE)
