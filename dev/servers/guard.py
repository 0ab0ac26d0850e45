"""Hold one server for the process that needs it, and let neither it nor its data outlive that process.

Run as a program of its own, between the two. It starts the server, sends it the signals whose numbers it reads, one a
line, and ends it and removes the data when its input closes, which the kernel does also for a process that SIGKILL
ended. `dev.processes` has the kernel end a child with the thread that started it; a server needs more: it is started
again from threads that end before it does, runs under another account when we are root, and leaves data behind.

Imports nothing of this repository and little else: it starts in 20 ms, even where the repository cannot be read.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
STOP_SECONDS_MAX = 10.0  # a server that is told to stop at once and has not done so by then is killed


def start(account: str, last_signal: int, command: list[str]) -> "subprocess.Popen[bytes]":
    """Start `command` under `account` ("uid:gid", or "" for our own). Its output goes to our stderr: the log."""

    def die_with_guard() -> None:
        # For the guard's own death by SIGKILL. Safe between fork and exec: this process has one thread so far.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, last_signal, 0, 0, 0)

    user, group = map(int, account.split(":")) if account else (None, None)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=user,
        group=group,
        extra_groups=None if group is None else [],
        preexec_fn=die_with_guard,  # noqa: PLW1509
    )


def obey(server: "subprocess.Popen[bytes]") -> None:
    """Send the signals that are asked for, until the input closes."""
    for line in sys.stdin:
        server.send_signal(int(line))


def end(server: "subprocess.Popen[bytes]", last_signal: int) -> None:
    """End the server within a bound."""
    server.send_signal(signal.SIGCONT)  # a frozen one would react to nothing but SIGKILL
    server.send_signal(last_signal)
    try:
        server.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def remove(data: Path) -> None:
    """Remove the data, and the directory of the run when the other server's data is gone as well."""
    shutil.rmtree(data, ignore_errors=True)
    if data.parent.name.startswith("exactly-once-"):
        with suppress(OSError):  # not empty
            data.parent.rmdir()


def main() -> None:
    account, last_signal, data, *command = sys.argv[1:]
    server = start(account, int(last_signal), command)
    print(server.pid, flush=True)

    def report_end() -> None:
        code = server.wait()
        if not orphaned.is_set():
            os._exit(code if code >= 0 else 128 - code)  # at once: the main thread reads, and would go on reading

    orphaned = threading.Event()
    threading.Thread(target=report_end, daemon=True).start()
    obey(server)
    orphaned.set()
    end(server, int(last_signal))
    remove(Path(data))


if __name__ == "__main__":
    main()
