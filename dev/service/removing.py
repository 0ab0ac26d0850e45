"""Takes a service away again, if nothing is lost by it.

A service may go if no other service consumes it and its files can be restored: each is what `new` would write, or is
in git unchanged. Otherwise it stays, unless forced.
"""

import subprocess
from pathlib import Path

from dev import env_example
from dev.servers import service_names
from dev.service import copying, entries
from dev.service.copying import ROOT, Misconfigured, declared
from dev.service.names import Spellings


def remove(given: str, *, force: bool = False) -> list[Path]:
    """Remove a service; return the files. Raises `Misconfigured`; then nothing has changed."""
    name = given.replace("-", "_").lower()
    service = declared(name)
    for other in service_names():
        if other == name:
            continue
        for route in declared(other).routes:
            if route.event.topic in service.published_topics:
                raise Misconfigured(f"{other} consumes {route.event.__name__} of {name}; take that away first")
    places = own(name)
    if not force and (changed := _changed(name, places)):
        raise Misconfigured(
            f"{name} has changes that are not in git: {', '.join(map(str, changed))}. Commit them, or use FORCE=1"
        )
    lists = entries.lists([other for other in service_names() if other != name])
    had_settings = bool(env_example.own(name))
    copying.delete(places)
    entries.write(lists)
    if had_settings:
        env_example.PLACE.write_text(env_example.text())
    return places


def own(name: str) -> list[Path]:
    """Return all files that belong to a service alone. `__main__.py` comes first: without it the rest is no service."""
    found = [
        path.relative_to(ROOT)
        for folder in ("services", "migrations")
        for path in (ROOT / folder / name).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    ]
    more = [entries.compose_file(name)]
    more += [Path(f"tests/unit/services/test_{name}.py"), Path(f"tests/integration/test_{name}.py")]
    found += [path for path in more if (ROOT / path).exists()]
    return sorted(found, key=lambda path: (path.name != "__main__.py", path))


def _changed(name: str, places: list[Path]) -> list[Path]:
    """Return the files that would be lost."""
    fresh: dict[Path, str] = {}
    routes = declared(name).routes
    if len(routes) == 1:
        fresh = copying.files(Spellings(name), copying.of(routes[0].event))
    mine = [place for place in places if (ROOT / place).read_text() != fresh.get(place)]
    return [place for place in mine if not _in_git(place)]


def _in_git(place: Path) -> bool:
    """Whether git has the file as it is."""
    for question in (["ls-files", "--error-unmatch"], ["diff", "--quiet", "HEAD"]):
        try:
            done = subprocess.run(["git", *question, "--", place], cwd=ROOT, capture_output=True, check=False)
        except FileNotFoundError:  # no git
            return False
        if done.returncode:
            return False
    return True
