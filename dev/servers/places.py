"""Where servers keep things: downloads in the user's cache, data in a directory per run, and a free port each."""

import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dev.servers.process import PortTaken, ServerError
from dev.servers.unprivileged import account, reachable

HOST = "127.0.0.1"
PREFIX = "exactly-once-"  # of a run's directory; the guard knows it too

# Below the range from which kernels take ports for outgoing connections (Linux from 32768, macOS from 49152). A port in
# that range could be taken by any client while a killed server is down; it could even connect to itself.
PORTS = range(20_000, 32_000)
PORTS_PROBED = 200
PORT_ATTEMPTS = 3  # a port that was free a moment ago is taken once in a blue moon

ABANDON_SECONDS_MAX = 10.0  # to remove the data of two servers takes less than one, unless they still write

_runs: set[Path] = set()
"""The directories of this process's runs."""


def cache() -> Path:
    """Return the directory for what is downloaded once."""
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without HOME and without an entry in /etc/passwd
        raise ServerError("there is no home for what is downloaded; set XDG_CACHE_HOME to a folder") from None
    if os.pathsep in str(place):  # nothing escapes it in Java's class path
        raise ServerError(f"{place} has a {os.pathsep} in its name; set XDG_CACHE_HOME to a folder without")
    return place / "exactly-once"


def run_directory() -> Path:
    """Make a directory for the data of one run.

    Rather not /tmp: it is in memory on many systems, where fsync costs nothing and measures nothing.
    """
    for parent in map(Path, filter(None, (os.environ.get("TMPDIR"), "/var/tmp", "/tmp"))):
        if not os.access(parent, os.W_OK | os.X_OK) or (account() and not reachable(parent / "any")):
            continue
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent.absolute()))
        _runs.add(directory)
        if account():
            directory.chmod(0o711)  # the way to the data of `nobody`
        return directory
    raise ServerError("no directory for temporary data: /var/tmp and /tmp cannot be written; set TMPDIR")


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not keep it taken
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Choose a port that is free now. Another process may still take it first: the caller must be ready to retry."""
    for port in random.sample(PORTS, PORTS_PROBED):
        if is_free(port):
            return port
    raise ServerError(f"{PORTS_PROBED} ports tried between {PORTS.start} and {PORTS.stop}, and none is free")


def listen(name: str, given: int | None, begin: Callable[[int], None]) -> None:
    """Call `begin`, which starts the server `name`, with the port given or with a free one; again if that was taken."""
    if given and not is_free(given):
        raise PortTaken(f"port {given}, wanted for {name}, is taken by another process")
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            begin(given or free_port())
        except PortTaken:
            if given or attempt == PORT_ATTEMPTS:
                raise
        else:
            return


def leave(directory: Path) -> None:
    """Remove a run's directory if the last server has left it."""
    if directory.name.startswith(PREFIX):
        with suppress(OSError):  # not empty, or gone
            directory.rmdir()


def abandon() -> None:
    """Remove the data of all runs of this process, which ends now. Guards end the servers, if they still run."""
    deadline = time.monotonic() + ABANDON_SECONDS_MAX
    for directory in tuple(_runs):
        while directory.exists() and time.monotonic() < deadline:
            shutil.rmtree(directory, ignore_errors=True)  # what a server has written meanwhile remains
