"""`make without-demo`: leaves the library, its tests, and the skeleton as the service `example`.

What goes is the three services and whatever is about them: `GONE`. What stays is not edited, but for the pages and the
Makefile, which name what is gone. All new text is made before anything is deleted.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dev.servers import service_names
from dev.service import copying, entries
from dev.service.copying import ROOT, Consumed, Misconfigured, declared
from dev.service.names import Spellings

DEMO = ("inventory", "order", "payment")
EXAMPLE = "example"
GONE = (
    *(f"{folder}/{service}" for folder in ("services", "migrations") for service in DEMO),
    *(f"compose/{service}.yml" for service in DEMO),
    *(
        "dev/balance",
        "dev/bench",
        "dev/compose.py",
        "dev/demo",
        "dev/system.py",
        "dev/service/bare.py",
        "dev/service/bare.md",
    ),
    *("docs/benchmarks.md", "docs/one-more-event.md", "docs/services.md", "docs/your-first-service.md"),
    "tests/e2e",
    *(f"tests/dev/{name}.py" for name in ("damages", "world", "test_balance", "test_bench", "test_demo")),
    *("tests/dev/test_normal_services.py", "tests/dev/test_one_more_event.py"),
    *("tests/dev/test_first_service.py", "tests/dev/test_try_it.py", "tests/dev/test_without_demo.py"),
    *(f"tests/unit/services/{name}.py" for name in ("saga", "test_docs", "test_handlers", "test_saga")),
    "tests/unit/services/test_saga_contracts.py",
    *("tests/integration/api/conftest.py", "tests/integration/test_persistence.py"),
    *(
        f"tests/integration/api/test_{name}.py"
        for name in ("idempotency", "operating", "orders", "places", "problems", "serving")
    ),
    *("tests/integration/api/test_access.py", "tests/integration/api/test_stock_and_accounts.py"),
    # What the library does about rights and secrets, shown on services of the demo.
    *(f"tests/integration/test_{name}.py" for name in ("database_roles", "kafka_access", "kafka_rights", "pooler")),
    *(f"tests/integration/test_{name}.py" for name in ("other_layout", "surroundings")),
    "tests/integration/test_secrets.py",
    *(f"tests/compose/{name}.py" for name in ("orders", "test_cluster", "test_commands", "test_system")),
)
TARGETS = ("demo-compose", "demo", "e2e", "bench", "without-demo")
SECTIONS = ("The way of one record", "What happens after a kill", "What you find where", "Words")
"""Of the README: what is true of any service."""


def without_demo(*, force: bool = False) -> None:
    """Remove the demo. Raises `Misconfigured`; then nothing has changed."""
    if not force and (changed := _changed()):
        raise Misconfigured(f"Commit your changes first, or use FORCE=1: there is no other way back. {changed}")
    mine = [name for name in service_names() if name not in DEMO]
    for name in mine:
        for route in declared(name).routes:
            if route.event.topic.partition(".")[0] in DEMO:
                raise Misconfigured(
                    f"{name} consumes {route.event.__name__} on {route.event.topic}; take that away first"
                )
    if missing := [place for place in GONE if not (ROOT / place).exists()]:
        raise Misconfigured(f"{', '.join(missing)} cannot be found: is the demo gone already?")
    if not force:
        _ask()
    pages = {
        "README.md": readme((ROOT / "README.md").read_text(), (ROOT / "dev/service/bare.md").read_text()),
        "Makefile": makefile((ROOT / "Makefile").read_text()),
        ".ci/run": _without_lines((ROOT / ".ci/run").read_text(), r"^make demo .*\n"),
    }
    for page in (ROOT / "docs").glob("*.md"):
        pages[f"docs/{page.name}"] = unlinked(page.read_text())
    pages = {place: text for place, text in pages.items() if place not in GONE}
    example = {} if mine else copying.files(Spellings(EXAMPLE), Consumed())
    lists = entries.lists(mine or [EXAMPLE])
    copying.write(example)
    entries.write({Path(place): text for place, text in pages.items()} | lists)
    for place in GONE:
        path = ROOT / place
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def readme(text: str, head: str) -> str:
    """Return the README of the bare template: another head, and the sections that are true of any service."""
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    if missing := set(SECTIONS) - sections.keys():
        raise Misconfigured(f"README.md has no section {missing.pop()}")
    kept = "".join(f"\n## {name}\n{sections[name].rstrip()}\n" for name in SECTIONS)
    kept = kept.replace("services/inventory/handlers.py │", "services/example/handlers.py   │")
    kept = kept.replace("Kafka: order.events", "Kafka: elsewhere.events").replace("inventory.events", "example.events")
    kept = re.sub(r"(?m)^services/ .*$", "services/           events, models, handlers, API", kept)
    kept = re.sub(r"(?m)^dev/ .*$", "dev/                for people who work here: servers, new services", kept)
    kept = re.sub(
        r"(?m)^tests/ .*$",
        "tests/              unit, simulation, integration, faults (every step is killed)",
        kept,
    )
    kept = re.sub(r"\nMore: (.+\n)*", "", kept)
    return head + kept


def unlinked(page: str) -> str:
    """Return a page without its rows about what is gone, links to it, and commands of it."""
    page = re.sub(r"(?m)^\|.*\]\(\.\./tests/e2e\).*\n", "", page)
    page = re.sub(r"`make (demo[^`]*)`", r"`\1` of the template", page)
    return re.sub(r"\[([^\]]*)\]\((benchmarks|one-more-event|services|your-first-service)\.md[^)]*\)", r"\1", page)


def makefile(text: str) -> str:
    """Return the Makefile without the targets of the demo."""
    for target in TARGETS:
        text = _without_lines(text, rf"(?m)^{target}:.*\n(?:\t.*\n)+\n")
        text = re.sub(rf"(?m)^(\.PHONY:.*?) {target}\b", r"\1", text)
    return text.replace("FROM=inventory", f"FROM={EXAMPLE}")


def _without_lines(text: str, pattern: str) -> str:
    found, count = re.subn(pattern, "", text, flags=re.MULTILINE)
    if not count:
        raise Misconfigured(f"nothing fits {pattern!r} any more")
    return found


def _ask() -> None:
    """Ask whoever sits there. Raises `Misconfigured` unless the answer is yes, and where nobody can answer."""
    places = [ROOT / place for place in GONE]
    files = sum(1 if place.is_file() else sum(path.is_file() for path in place.rglob("*.py")) for place in places)
    what = f"This deletes {', '.join(DEMO)} and all that is about them: {files} files"
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}. Nobody is there to be asked; use FORCE=1 if you mean it")
    if input(f"{what}. Type yes to go on: ").strip() != "yes":
        raise Misconfigured("You did not confirm.")


def _changed() -> str:
    try:
        done = subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "git is not there."
    return done.stdout + done.stderr


def main() -> int:
    """Do it, and tell."""
    parser = argparse.ArgumentParser(prog="python -m dev.service.bare", description="Remove the demo.")
    parser.add_argument("--force", action="store_true", help="do not ask; also if something is not committed")
    try:
        without_demo(force=parser.parse_args().force)
    except Misconfigured as error:
        print(f"Nothing was changed. {error}", file=sys.stderr)
        return 1
    print(
        "The demo is gone. What is left: the library, its tests, and "
        f"{', '.join(f'services/{name}' for name in service_names())}.\n\nNext: make test; git commit"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
