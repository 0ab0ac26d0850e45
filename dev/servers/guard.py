"""Hold one server for the process that needs it, and let neither it nor its data outlive that process.

Run as a program of its own, between the two. It starts the server, sends it the signals whose numbers it reads, one a
line, and ends it and removes the data when its input closes, which the kernel does also for a process that SIGKILL
ended. `dev.processes` has the kernel end a child with the thread that started it; a server needs more: it is started
again from threads that end before it does, runs under another account when we are root, and leaves data behind.

Imports nothing of ours and little else: it starts in 20 ms, and must also start where the repository cannot be read.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
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


def obey(server: "subprocess.Popen[bytes]", last_signal: int, data: Path) -> None:
    """Send the signals that are asked for; once nobody can ask any more, end the server and remove its data."""
    for line in sys.stdin:
        server.send_signal(int(line))
    server.send_signal(signal.SIGCONT)  # a frozen one would not hear anything but SIGKILL
    server.send_signal(last_signal)
    try:
        server.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    shutil.rmtree(data, ignore_errors=True)
    if data.parent.name.startswith("exactly-once-") and not any(data.parent.iterdir()):
        data.parent.rmdir()
    os._exit(1)


def main() -> None:
    account, last_signal, data, *command = sys.argv[1:]
    server = start(account, int(last_signal), command)
    print(server.pid, flush=True)
    threading.Thread(target=obey, args=(server, int(last_signal), Path(data)), daemon=True).start()
    code = server.wait()
    # Without the interpreter's own ending: the thread still reads.
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
