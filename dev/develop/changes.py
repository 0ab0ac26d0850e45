"""Which change of a file concerns what, and the thread that notices changes."""

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import DefaultFilter, watch

WATCHED = ("services", "shared", "migrations")
SETTLED_MS = 200
"""A change has settled when nothing else changes for so long: an editor writes a file in several steps."""
GROUPED_MS = 3_000
"""Changes are told after this at the latest, though more follow: a checkout of another branch takes so long."""
END_SECONDS = 5.0
SHOWN = 2


@dataclass
class Concern:
    """What changes concern, by the names of services."""

    restart: set[str] = field(default_factory=set)
    migrate: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    """Services that have come since the start."""


def concern(paths: Iterable[Path], services: Collection[str]) -> Concern:
    """Return what changes of files concern; `paths` are relative to the root of the repository.

    A service's own files concern that service, and the library all of them. A page concerns nobody, and neither does
    what only tests import.
    """
    found = Concern()
    for path in paths:
        place, *inside = path.parts
        owner = inside[0] if len(inside) > 1 else None
        if path.suffix == ".md" or (place, owner) == ("shared", "testing"):
            continue
        if (place, owner) in {("shared", "revisions"), ("migrations", "library")}:
            found.migrate.update(services)
        elif place == "shared" or (place, owner) == ("services", None):
            found.restart.update(services)
        elif owner is not None:
            concerned = found.migrate if place == "migrations" else found.restart
            (concerned if owner in services else found.unknown).add(owner)
    return found


def told(paths: Iterable[Path]) -> str:
    """Name some files for a line of the log."""
    names = sorted(map(str, paths))
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


class Files(DefaultFilter):
    """Leaves out what is there only while a file is written: of `sed -i`, and of Vim, which tries out a folder."""

    ignore_entity_patterns = (*DefaultFilter.ignore_entity_patterns, r"^sed[A-Za-z0-9]{6}$", r"^4913$")


class Watch:
    """Tells a callback of changes that have settled: their paths, relative to the root. The thread is its own."""

    def __init__(self, root: Path, tell: Callable[[frozenset[Path] | Exception], None]) -> None:
        self._root = root
        self._tell = tell
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        places = [self._root / name for name in WATCHED if (self._root / name).is_dir()]
        try:
            for changes in watch(
                *places,
                watch_filter=Files(),
                debounce=GROUPED_MS,
                step=SETTLED_MS,
                stop_event=self._ending,
                raise_interrupt=False,
            ):
                self._tell(frozenset(Path(path).relative_to(self._root) for _, path in changes))
        except (OSError, RuntimeError) as error:  # such as no more watches, as the kernel counts them
            self._tell(error)
