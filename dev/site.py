"""`make docs`: stage the pages for the site generator, which then builds them strictly.

A page links to other pages, and to files of this repository such as `../shared/protocol/cycle.py`. On the forge both
work as they are. In the site each linked file becomes a page under `source/`, so that no link needs a forge. The
navigation is the list in docs/index.md.
"""

import re
import shutil
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
SITE = ROOT / ".site"
HOME = "docs/index.md"
README = "readme.md"
"""The README's name in the site, whose home page is index.md."""
DATA = (".md", ".jsonl")
"""Of docs/: pages are staged one by one, and the ledger of storms is data. Everything else is copied as it is."""

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".md": "markdown", ".sql": "sql"}
CONFIG = """\
# Made by dev/site.py.
[project]
site_name = "exactly-once"
site_description = "Python services on Kafka and PostgreSQL: every event takes effect once and is published once"
docs_dir = "pages"
site_dir = "html"
nav = [
{nav}
]

[project.theme]
font = false  # no page loads anything from elsewhere
features = ["navigation.sections", "navigation.footer", "search.highlight", "content.code.copy"]

[project.plugins.mkdocstrings.handlers.python]
paths = [".."]

[project.plugins.mkdocstrings.handlers.python.options]
docstring_style = "google"
heading_level = 3
members_order = "source"
show_if_no_docstring = true
show_root_heading = true
show_root_full_path = false
show_source = false
show_bases = false
merge_init_into_class = true
filters = ["!^_"]
separate_signature = true
show_signature_annotations = true
"""


def staged(place: str) -> str:
    """Return where a file of the repository lies in the site, relative to its pages."""
    if place == "README.md":
        return README
    folder, _, name = place.partition("/")
    return name if folder == "docs" else f"source/{place.lstrip('.')}.md"  # a hidden file would be no page


def relinked(place: str, text: str) -> tuple[str, set[str]]:
    """Return the text of a page with links that lead through the site, and the files outside docs/ that it links to.

    What stands in a code block stays. A link that leads nowhere stays too: the generator fails on it.
    """
    sources: set[str] = set()
    depth = len(PurePosixPath(staged(place)).parts) - 1

    def link(found: re.Match[str]) -> str:
        target = (ROOT / place).parent.joinpath(found[1]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return found[0]
        there = target.relative_to(ROOT).as_posix()
        if staged(there).startswith("source/"):
            sources.add(there)
        return f"]({'../' * depth}{staged(there)}{found[2] or ''})"

    done, last = [], 0
    for block in FENCE.finditer(text):
        done += [LINK.sub(link, text[last : block.start()]), block[0]]
        last = block.end()
    return "".join([*done, LINK.sub(link, text[last:])]), sources


def shown(place: str) -> str:
    """Return the page of a file, or of a folder: the files in it."""
    path = ROOT / place
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {place}\n\n"
    if path.is_dir():
        listed = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return head + "".join(f"- `{name}`\n" for name in listed if "__pycache__" not in name)
    return f"{head}``````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n``````\n"


def navigation(index: str) -> str:
    """Return the list of docs/index.md as the generator has it: a section for each heading, a line for each page."""
    lines = [f'  {{"Home" = "index.md"}}, {{"README" = "{README}"}},']
    for section in index.split("\n## ")[1:]:
        title, _, rest = section.partition("\n")
        pages = [(name, file) for name, file in re.findall(r"^- \[(.+?)\]\((\S+?\.md)\)", rest, re.MULTILINE)]
        listed = ", ".join(f'{{"{name}" = "{file}"}}' for name, file in pages)
        lines.append(f'  {{"{title}" = [{listed}]}},')
    return "\n".join(lines)


def stage() -> None:
    """Write pages and configuration into .site/."""
    shutil.rmtree(SITE, ignore_errors=True)
    pages = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    texts, sources = {}, set[str]()
    for place in pages:
        texts[staged(place)], linked = relinked(place, (ROOT / place).read_text())
        sources |= linked
    texts |= {staged(place): shown(place) for place in sources}
    for name, text in texts.items():
        path = SITE / "pages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in (ROOT / "docs").iterdir():
        if path.suffix not in DATA:
            shutil.copy(path, SITE / "pages")
    (SITE / "zensical.toml").write_text(CONFIG.replace("{nav}", navigation((ROOT / HOME).read_text())))


if __name__ == "__main__":
    stage()
