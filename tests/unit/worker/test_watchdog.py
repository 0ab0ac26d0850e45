"""The watchdog ends a process that is stuck, and spares one that was frozen."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import sys, threading
from shared.worker.watchdog import Watchdog
watchdog = Watchdog()
watchdog.allow("a test", float(sys.argv[1]))
print("watched", flush=True)
threading.Event().wait(float(sys.argv[2]))
"""


def start(budget: str, work: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", program, budget, work], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "watched\n"
    return child


def test_a_stuck_process_ends_and_asks_to_be_started_again() -> None:
    child = start("0.5", "60")

    output, _ = child.communicate(timeout=30)

    assert child.returncode == 75
    assert "a test" in output + (_ or "")


def test_a_process_that_is_quick_enough_is_left_alone() -> None:
    child = start("60", "0.1")

    child.communicate(timeout=30)

    assert child.returncode == 0


def test_frozen_time_does_not_count() -> None:
    child = start("2", "0.8")
    os.kill(child.pid, signal.SIGSTOP)
    try:
        subprocess.run(["sleep", "3"], check=True)
    finally:
        os.kill(child.pid, signal.SIGCONT)

    child.communicate(timeout=30)

    assert child.returncode == 0


def test_the_last_line_says_what_the_main_loop_waited_for() -> None:
    waiting = "from shared.telemetry import waits; waits.LONG_SECONDS = 0.0; "
    waiting += "waits.MAIN_LOOP.begin('an answer of PostgreSQL', 30)"
    child = start("0.5", "60", f"{waiting}\n{PROGRAM}")

    output, error = child.communicate(timeout=30)

    (last,) = [line for line in (output + error).splitlines() if "watchdog" in line]
    assert "for an answer of PostgreSQL, until" in last
