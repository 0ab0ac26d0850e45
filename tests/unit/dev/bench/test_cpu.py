"""CPU is counted for whole trees of processes, and none is lost with a process that ends."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dev.bench import cpu
from dev.bench.inventory import BenchError

CHILD_SECONDS = 0.3
BURN = f"import time\nwhile time.process_time() < {CHILD_SECONDS}: pass"
PARENT = """
import subprocess, sys
print("begun", flush=True)
for line in sys.stdin:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
    print("done", flush=True)
"""


@contextmanager
def parent() -> Iterator["subprocess.Popen[str]"]:
    """A process that has a child burn CPU, and reaps it, for each line it is sent."""
    command = [sys.executable, "-c", PARENT, BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.mark.skipif(sys.platform != "linux", reason="psutil knows the times of ended children on Linux only")
def test_what_a_child_spent_that_ended_between_two_readings_is_not_lost() -> None:
    with parent() as process:
        assert process.stdin
        assert process.stdout
        before = cpu.spent({"it": [process.pid], "nothing": []})
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        spent = cpu.between(before, cpu.spent({"it": [process.pid], "nothing": []}))

    assert CHILD_SECONDS * 0.9 < spent["it"] < CHILD_SECONDS * 3
    assert spent["nothing"] == 0


def test_a_child_that_lives_is_counted() -> None:
    before = cpu.spent({"us": [os.getpid()]})
    words = [sys.executable, "-c", f"{BURN}\nprint('burnt', flush=True)\ninput()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline()
        spent = cpu.between(before, cpu.spent({"us": [os.getpid()]}))
        child.communicate(b"\n")

    assert spent["us"] > CHILD_SECONDS * 0.9


def test_a_process_that_has_ended_cannot_be_measured() -> None:
    with parent() as process:
        pid = process.pid
    with pytest.raises(BenchError, match=f"process {pid} ended while it was measured"):
        cpu.spent({"it": [pid]})
