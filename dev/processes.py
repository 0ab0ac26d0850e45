"""Start a process so that it can never outlive the one that started it, and end it within a bound.

Servers, services and tests all start processes, and each of them may itself be killed by SIGKILL, which no `finally`
survives. So the kernel is asked to do it: a child gets SIGKILL when the thread that started it ends (Linux,
PR_SET_PDEATHSIG). Hence the one rule for callers: start processes from a thread that lives at least as long as they
are meant to.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Asking between fork and exec would run Python in a copy of a process whose other threads are gone, with the locks they
# held. So a fresh interpreter (20 ms; -I -S import next to nothing) asks, then becomes the command; its pid stays.
_LAUNCHER = """
import ctypes, os, sys
parent, tied, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        os._exit(0)
os.close(int(tied))
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"cannot start {command[0]}: {error.strerror}")
"""

POLL_SECONDS = 0.02
# It takes 20 ms; the bound is for a machine that has stopped doing anything else.
TIE_SECONDS = 30.0


def start(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    foreground: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start `command` in a session and process group of its own; stdout and stderr go to `output`. In the `foreground`
    it stays in ours and reads our input, as a debugger at our terminal must.

    It is killed when the calling thread ends. That holds from the moment this returns, whatever is done to the process
    then: a child frozen before it could ask the kernel would stay for ever.
    """
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(writing), *map(str, command)],
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=None if foreground else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=not foreground,
            pass_fds=(writing,),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as tied:
        if not select.select([tied], [], [], TIE_SECONDS)[0]:
            process.kill()
            raise TimeoutError(f"a new process did nothing for {TIE_SECONDS:.0f} s: {command[0]}")
    return process


def send(process: "subprocess.Popen[bytes]", signal_number: signal.Signals) -> bool:
    """Send a signal to the process, and to its whole group if it has one of its own; False if it has ended.

    The process is not yet reaped while `returncode` is unset, so the number cannot belong to another process.
    """
    if process.returncode is not None:
        return False
    try:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal_number)
        else:
            os.kill(process.pid, signal_number)
    except ProcessLookupError:
        return False
    return True


def end(processes: Sequence["subprocess.Popen[bytes]"], grace_seconds: float) -> list[int]:
    """Ask all `processes` to end with SIGTERM, kill what remains after `grace_seconds`, and return the exit codes."""
    for process in processes:
        send(process, signal.SIGTERM)
        send(process, signal.SIGCONT)  # a stopped process would keep SIGTERM waiting for ever
    deadline = time.monotonic() + grace_seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in processes:
        if process.poll() is None:
            send(process, signal.SIGKILL)
    return [process.wait() for process in processes]
