"""Reads files with settings, or named by a setting: whole and within limits, or refused at once with a message.

A path may lead to anything: a pipe without a writer would block for ever, a device would fill the memory, and half a
file would pass for all of it.
"""

import os
import stat
import time
from collections.abc import Container, Iterator
from io import StringIO
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from ..errors import Misconfigured

BYTES_MAX = 1_000_000
"""No file with settings or a secret is this long; a bundle of all public CAs is a quarter of it."""

PIPE_SECONDS = 5.0
"""A secret that a shell's `<(command)` passes through a pipe is there at once, or has to come from a vault."""

LOOK_AGAIN_SECONDS = 0.02


def text(path: Path) -> str:
    """Read a file, or a pipe with a writer, as UTF-8 with or without a byte order mark.

    Raises FileNotFoundError; `Misconfigured`, with only the reason, if it is not text or longer than BYTES_MAX bytes.
    """
    try:
        found = whole(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        found = "\0"
    if "\0" in found:
        raise Misconfigured("is not UTF-8 text; save it as UTF-8")
    return found


def whole(path: Path) -> bytes:
    """Read a file, or a pipe with a writer. Raises FileNotFoundError; `Misconfigured` with only the reason."""
    try:
        # Without O_NONBLOCK, opening a pipe blocks until it has a writer.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}") from None
    try:
        kind = os.fstat(file).st_mode
        if stat.S_ISDIR(kind):
            raise Misconfigured("is a folder; a file is needed")
        return b"".join(_pieces(file, kind))
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(file)


def _pieces(file: int, kind: int) -> Iterator[bytes]:
    pipe, regular = stat.S_ISFIFO(kind), stat.S_ISREG(kind)
    left, deadline = BYTES_MAX, time.monotonic() + PIPE_SECONDS
    while regular or time.monotonic() < deadline:  # nobody is waited for to write a file
        try:
            piece: bytes | None = os.read(file, 65_536)
        except BlockingIOError:  # a writer is about to write
            piece = None
        if piece:
            yield piece
            left -= len(piece)
            if left < 0:
                raise Misconfigured(f"has more than {BYTES_MAX:,} bytes, too many for a file of settings")
        elif piece is not None and (left < BYTES_MAX or not pipe):
            return
        else:  # a pipe without a writer yet reads as ended too
            time.sleep(LOOK_AGAIN_SECONDS)
    raise Misconfigured(f"was not read: its writer did not finish within {PIPE_SECONDS:.0f} s")


def refuse_dotenv(file: Path, known: Container[str]) -> None:
    """Refuse a `.env` that would be read only in part; `known` are the names of settings. The file may be missing.

    Raises `Misconfigured`, which names the line but none of its contents.
    """
    if file.is_fifo():  # a `.env` is read more than once
        raise Misconfigured(f"{file}: is a pipe; put the settings in a file of this name, or in the environment")
    try:
        found = text(file)
    except FileNotFoundError:
        return
    except Misconfigured as error:
        raise Misconfigured(f"{file}: {error}") from None
    for binding in parse_stream(StringIO(found)):
        if wrong := _wrong(binding, known):
            # The parser counts empty lines before a statement as part of it.
            string = binding.original.string
            line = binding.original.line + string[: len(string) - len(string.lstrip())].count("\n")
            raise Misconfigured(f"{file}: line {line} {wrong}")


def _wrong(binding: Binding, known: Container[str]) -> str | None:
    if binding.error:
        return "cannot be read: an unclosed quote, or not NAME=value"
    if binding.value is None:
        return f"has no = after {binding.key}" if binding.key and binding.key.upper() in known else None
    inside = [line.partition("=") for line in binding.value.splitlines()[1:]]
    swallowed = [name.strip() for name, separator, _ in inside if separator and name.strip().upper() in known]
    return f"opens a quote that is closed only after {swallowed[0]}" if swallowed else None
