"""One log of many processes: each line with the process's name in front, in the order of the lines' times.

The processes write to files, which a thread of ours reads. So a terminal that stands still (Ctrl+S) holds up no worker.
"""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import UnsupportedOperation
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TextIO

OURS = "make dev"
"""The name in front of our own lines."""
POLL_SECONDS = 0.1
READ_BYTES = 262_144
"""Of one file at once: what comes faster than this, ten times a second, is shown later."""
LINE_BYTES_MAX = 65_536
FILE_BYTES_MAX = 100_000_000
"""A file that is longer, and shown, begins anew."""
END_SECONDS = 10.0

HUES = (36, 33, 32, 35, 34, 31)  # cyan, yellow, green, magenta, blue, red
SHADES = ("", "1;", "3;", "4;")  # plain, bold, italic, underlined

_TIME = re.compile(r"\S*?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z)")


def colours(processes: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the colour of each process, by its name; `processes` are the names of each service's."""
    return {
        name: f"{SHADES[shade % len(SHADES)]}{HUES[hue % len(HUES)]}"
        for hue, names in enumerate(processes.values())
        for shade, name in enumerate(names)
    }


def in_colour(out: TextIO) -> bool:
    """Whether `out` is a terminal that shows colours to somebody who wants them (https://no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@dataclass
class _Followed:
    path: Path
    read: int = 0
    rest: bytes = b""
    """The beginning of a line whose end is not written yet."""
    time: str = ""
    """Of its last line that has one: a traceback stays behind the line that it belongs to."""


class MergedLog:
    """Writes the lines of the processes, and ours, to `out` until the block ends."""

    def __init__(self, out: TextIO, files: Mapping[str, Path], colour: Mapping[str, str] | None = None) -> None:
        self._out = out
        self._files = {name: _Followed(path) for name, path in files.items()}
        self._width = max(map(len, (OURS, *files)))
        self._colour = colour or {}
        self._ours: SimpleQueue[tuple[str, str, str]] = SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self.broken = False
        """Nobody reads it any more."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(END_SECONDS)

    def say(self, words: str) -> None:
        """Have lines of our own written. This does not wait for the terminal."""
        now = datetime.now(UTC).isoformat()
        for line in words.splitlines():
            self._ours.put((now, OURS, line))

    def _run(self) -> None:
        while not self._ending.wait(POLL_SECONDS):
            self._pass_on()
        while self._pass_on():
            pass
        self._write([(name, _text(file.rest)) for name, file in self._files.items() if file.rest])

    def _pass_on(self) -> bool:
        """Write what is new; whether there was anything."""
        lines = []
        for name, file in self._files.items():
            for line in _lines(file):
                file.time = _time(line) or file.time
                lines.append((file.time, name, line))
        while not self._ours.empty():
            lines.append(self._ours.get())
        self._write([(name, line) for _, name, line in sorted(lines, key=lambda line: line[0])])
        return bool(lines)

    def _write(self, lines: list[tuple[str, str]]) -> None:
        if self.broken:
            return
        try:
            self._out.write("".join(f"{self._label(name)} | {line}\n" for name, line in lines))
            self._out.flush()
        except (OSError, ValueError):
            self.broken = True
            silence(self._out)

    def _label(self, name: str) -> str:
        padded = name.ljust(self._width)
        return f"\x1b[{self._colour[name]}m{padded}\x1b[0m" if name in self._colour else padded


def silence(*outs: TextIO) -> None:
    """Have what is still written to `outs` go nowhere: nobody reads it, and to write would fail."""
    for out in outs:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, out.fileno())
            os.close(nowhere)
        except (OSError, ValueError, UnsupportedOperation):  # it has no file of the system, or is closed
            continue


def _lines(file: _Followed) -> list[str]:
    """Read the whole lines that are new."""
    try:
        with file.path.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size < file.read:  # somebody has removed it, and it began anew
                file.read, file.rest = 0, b""
            opened.seek(file.read)
            new = opened.read(READ_BYTES)
            if not new and file.read > FILE_BYTES_MAX:
                os.truncate(file.path, 0)
                file.read = 0
    except FileNotFoundError:
        return []
    file.read += len(new)
    *whole, file.rest = (file.rest + new).split(b"\n")
    if len(file.rest) > LINE_BYTES_MAX:
        whole, file.rest = [*whole, file.rest], b""
    return [_text(line) for line in whole]


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


def _time(line: str) -> str:
    found = _TIME.match(line)
    return found[1] if found else ""
