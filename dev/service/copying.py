"""Makes a new service out of the skeleton: all in memory first, so that a mistake changes nothing."""

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from dev.servers import service_names
from dev.service import entries
from dev.service.names import Spellings, WrongName, spellings
from shared.events import Event
from shared.service import Service

ROOT = Path(__file__).parents[2]
SKELETON = Path(__file__).parent / "skeleton"
MODULE = "dev.service.skeleton.service"
FORMAT_SECONDS = 60.0
OURS = 'lint.isort.known-first-party = ["dev", "migrations", "services", "shared", "tests"]'
"""Ruff looks for the folders, which are not where the new files are formatted."""
MISSING = "no service is called {name!r}; there are {services}"


class Misconfigured(Exception):
    """It cannot be done, and nothing was changed."""


class Consumed(NamedTuple):
    """The event that a new service consumes."""

    event: str = "SomethingHappened"
    topic: str = "elsewhere.events"
    field: str = "something_id"
    """The field that is its key."""


# Other things in the skeleton's modules have these names already.
_TAKEN_EVENTS = frozenset(
    {"Base", "Created", "Event", "Id", "Keyed", "Meta", "ResponseBody", "Router", "Service", "Session"}
)
_TAKEN_FIELDS = frozenset({"event", "key", "known", "note", "service", "session", "times", "topic", "version"})


def declared(service: str) -> Service:
    """Return what a service publishes about itself. Raises `Misconfigured` if there is none of that name."""
    names = service_names()
    if service not in names:
        raise Misconfigured(MISSING.format(name=service, services=", ".join(names)))
    found: Service = importlib.import_module(f"services.{service}.handlers").service
    return found


def consumed(source: str, event: str | None = None) -> Consumed:
    """Choose an event that the service `source` publishes: `event`, or the first. Raises `Misconfigured` if it
    cannot be consumed.
    """
    publishes = {published.__name__: published for published in declared(source).publishes}
    if event is None and publishes:
        event = next(iter(publishes))
    if event is None or event not in publishes:
        raise Misconfigured(
            f"{source} does not publish {event or 'anything'}; it publishes {', '.join(publishes) or 'nothing'}"
        )
    return of(publishes[event])


def of(event: type[Event]) -> Consumed:
    """Describe an event. Raises `Misconfigured` if its key is not simply one of its fields."""
    field = _key_field(event)
    if event.__name__ in _TAKEN_EVENTS or field in _TAKEN_FIELDS:
        raise Misconfigured(
            f"{event.__name__} and its field {field}: the skeleton uses one of these names; choose another event"
        )
    return Consumed(event.__name__, event.topic, field)


def _key_field(event: type[Event]) -> str:
    class Probe:
        asked: list[str] = []  # noqa: RUF012 (lives for one question)

        def __getattr__(self, name: str) -> str:
            self.asked.append(name)
            return name

    getter = vars(next(kind for kind in event.__mro__ if "key" in vars(kind)))["key"].fget
    given = getter(Probe())
    fields = {field.encode_name: field.type for field in msgspec.inspect.type_info(event).fields}  # type: ignore[attr-defined]
    if Probe.asked != [given] or not isinstance(fields.get(given), msgspec.inspect.StrType):
        raise Misconfigured(
            f"the key of {event.__name__} is not simply one of its text fields; choose another event to consume"
        )
    return str(given)


def files(name: Spellings, event: Consumed) -> dict[Path, str]:
    """Return all files of a new service, by their path under the root."""
    places: dict[Path, Path] = {
        path: Path("services") / name.snake / path.name for path in (SKELETON / "service").glob("*.py")
    }
    places |= {path: Path("migrations") / name.snake / path.name for path in (SKELETON / "migrations").glob("*.py")}
    places |= {
        SKELETON / "compose.yml": entries.compose_file(name.snake),
        SKELETON / "tests" / "unit.py": Path(f"tests/unit/services/test_{name.snake}.py"),
        SKELETON / "tests" / "integration.py": Path(f"tests/integration/test_{name.snake}.py"),
    }
    words = name.instead_of_skeleton() | dict(zip(Consumed(), event, strict=True)) | {MODULE: f"services.{name.snake}"}
    # All in one pass, since a new word may contain an old one; the longest of those that fit.
    old = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    made = {place: old.sub(lambda found: words[found[0]], path.read_text()) for path, place in places.items()}
    containers = entries.compose_file(name.snake)
    made[containers] = made[containers].replace(f":-{entries.FIRST_PORT}}}", f":-{entries.compose_port(name.snake)}}}")
    return _formatted({place: made[place] for place in sorted(made, key=_last)})


def _last(place: Path) -> tuple[bool, Path]:
    """A folder is a service when it has a `__main__.py`: that is written last."""
    return place.name == "__main__.py", place


def _formatted(made: Mapping[Path, str]) -> dict[Path, str]:
    """Bring imports and lines into their order again: names of another length break lines elsewhere."""
    with tempfile.TemporaryDirectory(prefix="exactly-once-") as folder:
        for place, text in made.items():
            (Path(folder) / place).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / place).write_text(text)
        options: list[str | Path] = ["--quiet", "--no-cache", "--config", ROOT / "pyproject.toml"]
        for words in (["check", "--select", "I", "--fix", "--config", OURS], ["format"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *words, *options, "."],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=FORMAT_SECONDS,
                check=False,
            )
            if done.returncode:
                raise Misconfigured(f"the new files would not be Python that ruff accepts:\n{done.stderr}{done.stdout}")
        return {place: (Path(folder) / place).read_text() for place in made}


def new(given: str, source: str, event: str | None = None) -> tuple[Spellings, Consumed, list[Path]]:
    """Make the service `given`, which consumes an event of `source`; return its name, the event, and the files.

    Raises `Misconfigured`; then nothing has changed.
    """
    try:
        name = spellings(given, service_names())
    except WrongName as error:
        raise Misconfigured(str(error)) from error
    chosen = consumed(source, event)
    if chosen.event in {name.title, f"{name.title}Noted", f"{name.title}Answer", f"{name.title}Container"}:
        raise Misconfigured(
            f"{chosen.event} would be two things in the service {name.snake}; choose another name or event"
        )
    made, lists = files(name, chosen), entries.lists([*service_names(), name.snake])
    if there := [place for place in made if (ROOT / place).exists()]:
        raise Misconfigured(f"{there[0]} is there already")
    write(made)
    entries.write(lists)
    return name, chosen, list(made)


def write(made: Mapping[Path, str], root: Path = ROOT) -> None:
    """Write new files; if that fails, or is interrupted, remove what was written."""
    written: list[Path] = []
    try:
        for place, text in made.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            written.append(place)
            with (root / place).open("x") as file:
                file.write(text)
    except BaseException:
        delete(written, root)
        raise


def delete(places: list[Path], root: Path = ROOT) -> None:
    """Delete files, and their folders where nothing else is left but what Python has compiled."""
    for place in places:
        (root / place).unlink(missing_ok=True)
        for compiled in (root / place).parent.glob(f"__pycache__/{place.stem}.*"):
            compiled.unlink()
    for folder in {(root / place).parent for place in places}:
        for path in (folder / "__pycache__", folder):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
