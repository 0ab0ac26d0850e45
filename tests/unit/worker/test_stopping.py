"""A signal may arrive at any moment of a wait: nothing hangs, and the wait ends at once."""

import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from shared.testing import SECONDS_MAX
from shared.worker.stopping import Stopping

STEPS_MAX = 1_000


def interrupted(step: int, wait: Callable[[], object], handler: Callable[[], object]) -> bool:
    """Call `wait` in a thread, and `handler` before its line number `step`, as Python calls a signal handler: in the
    same thread, between two lines. Return whether the wait came so far; fail if it then hangs.
    """
    passed = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal passed
        if event == "line":
            passed += 1
            if passed == step:
                sys.settrace(None)
                handler()
        return trace

    def run() -> None:
        sys.settrace(trace)
        wait()
        sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS_MAX)
    assert not thread.is_alive(), f"the handler, called before line {step} of the wait, hangs"
    return passed >= step


def test_a_handler_may_interrupt_a_wait_at_any_of_its_lines() -> None:
    for step in range(1, STEPS_MAX):
        stopping = Stopping()
        if not interrupted(step, lambda asked=stopping: asked.wait(0), stopping.set):  # type: ignore[misc]
            break
        assert stopping.is_set()
        assert stopping.wait(SECONDS_MAX)
    else:
        pytest.fail("the wait has no end")
    assert step > 1


REAL = """
import signal, sys
from shared.worker.stopping import Stopping
stopping = Stopping()
signal.signal(signal.SIGALRM, lambda *_: stopping.set())
for _ in range(200):
    stopping = Stopping()
    signal.setitimer(signal.ITIMER_REAL, 0.0001)
    assert stopping.wait(60), "the signal did not end the wait"
    assert stopping.wait(60)
assert not Stopping().wait(-1)
"""


def test_real_signals_end_the_waits_of_a_main_thread() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], timeout=SECONDS_MAX, check=False, capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")


def test_all_who_wait_are_woken() -> None:
    stopping, woken = Stopping(), []
    threads = [threading.Thread(target=lambda: woken.append(stopping.wait(SECONDS_MAX)), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()

    stopping.set()

    for thread in threads:
        thread.join(SECONDS_MAX)
    assert woken == [True] * 3
