"""The output of the operator's commands: lines, aligned columns, or JSON for programs.

No record's text can affect a terminal: unprintable characters are written as escapes - control characters, line ends,
bidirectional marks, lone surrogates - and so is what the terminal's encoding lacks. When the reader closes the pipe,
the command runs to its end and prints nothing more. It does the same when the output cannot be written, to a full disk
for example, and reports that on standard error.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO, TypeVar

T = TypeVar("T")

REASON_MAX = 2_000
"""Characters of a reason: lists and pages show it beside what it explains."""

_lost: list[TextIO] = []
"""The streams that could not be fully written."""


_collects: ContextVar[list[str] | None] = ContextVar("collects", default=None)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect what is said in this block instead of printing it: another program runs the command."""
    lines: list[str] = []
    before = _collects.set(lines)
    try:
        yield lines
    finally:
        _collects.reset(before)


def echo(line: str = "") -> None:
    """Print a line of the output."""
    if (lines := _collects.get()) is not None:
        lines.append(printable(line))
        return
    _write(sys.stdout, printable(line))


def note(line: str) -> None:
    """Print a line of progress on standard error."""
    if _collects.get() is None:
        _write(sys.stderr, printable(line))


def ask(question: str) -> str:
    """Ask on standard error; return the line typed in answer."""
    _write(sys.stderr, printable(question), end=" ")
    return sys.stdin.readline()


def columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print `rows` under `heads`, aligned; an absent value is shown as a dash."""
    cells = [list(heads), *[["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]
    for row in cells:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def oldest(
    found: Sequence[T],
    most: int,
    *,
    json: bool,
    facts: Callable[[T], object],
    heads: Sequence[str],
    cells: Callable[[T], Sequence[object]],
) -> None:
    """Print the first `most` of what was found, as facts for programs or in columns, and whether there are more."""
    shown = found[:most]
    if json:
        as_json([facts(one) for one in shown])
        return
    columns(heads, [cells(one) for one in shown])
    if len(found) > most:
        echo(f"... the oldest {most}; --limit shows more")


def as_json(value: object) -> None:
    """Print a value for programs, in ASCII."""
    _write(sys.stdout, json.dumps(value, indent=2, ensure_ascii=True, default=str))


def printable(text: str) -> str:
    """Return text in which every character that could affect a terminal is a Python escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def end_quietly() -> None:
    """Flush what is still to be written; discard it if the pipe is closed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (BrokenPipeError, ValueError):
                _silence(stream)
            except OSError as error:
                _lose(stream, error)


def lost() -> bool:
    """Whether part of the output could not be written, other than to a closed pipe."""
    return bool(_lost)


def age(seconds: float | None) -> str | None:
    """Format an age in one unit."""
    if seconds is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def _write(stream: TextIO | None, text: str, end: str = "\n") -> None:
    if stream is None:  # the process was started without it
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + end)
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _lose(stream, error)


def _lose(stream: TextIO, error: OSError) -> None:
    _silence(stream)
    _lost.append(stream)
    if stream is not sys.stderr:
        note(f"the output cannot be written: {error.strerror}; the command goes on without it")


def _silence(stream: TextIO) -> None:
    """Discard what a stream still gets: the interpreter flushes it once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
