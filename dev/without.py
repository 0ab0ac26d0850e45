"""`make without-demo` and `make without-proof`: remove what a copy of this tree may leave behind.

`dev/without.toml` lists what goes. What stays is not edited, except pages that name what is gone: a link to it becomes
plain text. The targets of the Makefile go with the files that define them, dev/demo.mk and dev/proof.mk. All new text
is made before anything is deleted.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from dev import env_example
from dev.servers import service_names
from dev.service import copying, entries
from dev.service.copying import ROOT, Consumed, Misconfigured, declared
from dev.service.names import Spellings

DEMO = ("inventory", "order", "payment")
EXAMPLE = "example"
COMPILED = "__pycache__"
LINE_MAX = 120
"""Characters of a line of prose."""


class Part(msgspec.Struct, frozen=True):
    """A part that a copy may leave behind, as dev/without.toml describes it."""

    what: str
    left: str
    files: tuple[str, ...]


class Lists(msgspec.Struct, frozen=True):
    """The contents of dev/without.toml."""

    demo: Part
    proof: Part
    both: tuple[str, ...]
    """Files used by both parts: they go with the second one removed."""


def parts() -> Lists:
    """Read the lists."""
    return msgspec.toml.decode((ROOT / "dev/without.toml").read_text(), type=Lists)


def without(name: str, *, force: bool = False) -> Part:
    """Remove the demo or the proof. Raises `Misconfigured`; then nothing has changed."""
    lists = parts()
    part, other = (lists.demo, "proof") if name == "demo" else (lists.proof, "demo")
    if not force and (changed := _changed()):
        raise Misconfigured(f"Commit your changes first, or use FORCE=1: there is no other way back. {changed}")
    if not (ROOT / f"dev/{name}.mk").exists():
        raise Misconfigured(f"The {name} is gone already")
    mine = [service for service in service_names() if service not in DEMO]
    new: dict[Path, str] = {}
    made: dict[Path, str] = {}
    if name == "demo":
        _refuse_consumers(mine)
        new = {} if mine else copying.files(Spellings(EXAMPLE), Consumed())
        made = entries.lists(mine or [EXAMPLE]) | {Path("README.md"): (ROOT / "dev/service/bare.md").read_text()}
    going = files(part.files if (ROOT / f"dev/{other}.mk").exists() else (*part.files, *lists.both))
    made |= pages(going, made)
    if not force:
        _ask(f"This deletes {part.what}: {len(going)} files")
    copying.write(new)
    entries.write(made)
    copying.delete(going)
    for folder in sorted({above for place in going for above in (ROOT / place).parents}, reverse=True):
        if folder.is_relative_to(ROOT) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if name == "demo":
        env_example.PLACE.write_text(env_example.text())  # without the settings of what is gone
    return part


def files(patterns: Iterable[str]) -> list[Path]:
    """Return the files that are here, by their path under the root."""
    found = {path for pattern in patterns for place in braced(pattern) for path in _inside(ROOT / place)}
    return sorted(path.relative_to(ROOT) for path in found if COMPILED not in path.parts)


def braced(pattern: str) -> list[str]:
    """Return what a pattern means that may have one list in braces, as a shell expands it."""
    head, _, rest = pattern.partition("{")
    names, _, tail = rest.partition("}")
    return [f"{head}{name}{tail}" for name in names.split(",")]


def _inside(path: Path) -> list[Path]:
    return [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path] if path.exists() else []


def pages(going: Collection[Path], made: dict[Path, str]) -> dict[Path, str]:
    """Return the pages that stay and name what goes, without its links and commands; `made` are new texts of some."""
    targets = [
        target
        for place in going
        if place.suffix == ".mk"
        for target in re.findall(r"(?m)^([a-z][a-z0-9-]*):", (ROOT / place).read_text())
    ]
    changed = dict(made)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        place = path.relative_to(ROOT)
        if place not in going:
            text = made.get(place) or path.read_text()
            changed[place] = unlinked(text, place.parent, going, targets)
    return changed


def unlinked(text: str, folder: Path, going: Collection[Path], targets: Collection[str]) -> str:
    """Return a page of `folder` without links to files that go, and without commands of `targets`."""

    def plain(link: re.Match[str]) -> str:
        lands = Path(os.path.normpath(folder / link[2]))
        return link[1] if lands in going or _emptied(lands, going) else link[0]

    before = {*text.split("\n")}
    text = re.sub(r"\[([^\]]*)\]\((?!https?:)([^)#\s]+)[^)]*\)", plain, text)
    if targets:
        one = "|".join(map(re.escape, sorted(targets, key=len, reverse=True)))
        text = re.sub(rf"(?m)^make ({one})(?![\w-]).*\n", "", text)
        text = re.sub(rf"`make (({one})(?![\w-])[^`]*)`", r"`\1` of the template", text)
    return "\n".join(line if line in before else _wrapped(line) for line in text.split("\n"))


def _wrapped(line: str) -> str:
    """Break a line that has become too long; what follows is indented as the text of its list is."""
    if len(line) <= LINE_MAX or line.startswith("|"):
        return line
    head, _, tail = line[:LINE_MAX].rpartition(" ")
    indent = re.match(r" *(?:- )?", line)
    return f"{head}\n{' ' * len(indent[0] if indent else '')}{tail}{line[LINE_MAX:]}"


def _emptied(folder: Path, going: Collection[Path]) -> bool:
    """Return whether all files of a folder go."""
    if not (ROOT / folder).is_dir():
        return False
    inside = (path.relative_to(ROOT) for path in _inside(ROOT / folder))
    return all(path in going or COMPILED in path.parts for path in inside)


def _refuse_consumers(mine: Collection[str]) -> None:
    """Raise `Misconfigured` if a service that stays consumes events of the demo."""
    for name in mine:
        for route in declared(name).routes:
            if route.event.topic.partition(".")[0] in DEMO:
                raise Misconfigured(
                    f"{name} consumes {route.event.__name__} on {route.event.topic}; take that away first"
                )


def _ask(what: str) -> None:
    """Ask the person at the terminal. Raises `Misconfigured` unless the answer is yes, or if there is no terminal."""
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}. There is no terminal to ask on; use FORCE=1 if you mean it")
    if input(f"{what}. Type yes to go on: ").strip() != "yes":
        raise Misconfigured("You did not confirm.")


def _changed() -> str:
    try:
        done = subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "git is not there."
    return done.stdout + done.stderr


def main() -> int:
    """Remove the part and print the result."""
    parser = argparse.ArgumentParser(prog="python -m dev.without", description="Remove the demo, or the proof.")
    parser.add_argument("part", choices=("demo", "proof"))
    parser.add_argument("--force", action="store_true", help="do not ask, even if something is not committed")
    given = parser.parse_args()
    try:
        part = without(given.part, force=given.force)
    except Misconfigured as error:
        print(f"Nothing was changed. {error}", file=sys.stderr)
        return 1
    services = ", ".join(f"services/{name}" for name in service_names())
    print(f"The {given.part} is gone. What is left: {part.left}, and {services}.")
    print("\nNext: make test; git commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
