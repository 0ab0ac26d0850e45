"""The supervisor keeps its programs running, breaks them as ordered, and leaves nothing behind, however it ends."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dev import program
from dev.program import Program
from dev.supervisor import GaveUp, Supervisor
from shared.testing import until
from tests.signals import not_ignored

# Python starts in some 20 ms; the bound is for a machine that does ten other things.
WAIT_SECONDS = 10.0

FOREVER = "print('started', flush=True); import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print('started', flush=True)
time.sleep(600)
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as supervisor:
        yield supervisor


def python(name: str, code: str, folder: Path) -> Program:
    return Program(name, (sys.executable, "-c", code), {}, folder)


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = supervisor.pid(name)
    assert pid is not None
    return pid


def status(pid: int) -> str:
    """Return the state as the kernel sees it; `gone` if it has ended, though an orphan may wait to be reaped by
    init.
    """
    try:
        state = str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"
    return "gone" if state == psutil.STATUS_ZOMBIE else state


def test_a_program_that_fails_is_started_again_and_its_exits_are_counted(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(python("failing worker", "print('once more'); raise SystemExit(3)", tmp_path))
    until(lambda: len(supervisor.exits) >= 3)
    assert supervisor.causes()["failing worker: exit 3"] >= 3
    assert "once more\nonce more" in supervisor.tail("failing worker")


def test_a_program_that_is_done_is_left_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("done", "print('done')", tmp_path))
    until(lambda: supervisor.exits)
    time.sleep(5 * program.RESTART_SECONDS_MIN)
    assert [exit.cause for exit in supervisor.exits] == ["exit 0"]
    assert supervisor.pid("done") is None


def test_a_killed_program_comes_back_as_another_process(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("worker", FOREVER, tmp_path))
    before = supervisor.pid("worker")
    assert supervisor.kill("worker")
    until(lambda: supervisor.pid("worker") not in {None, before})
    (exit,) = supervisor.exits
    assert (exit.cause, exit.ordered) == ("SIGKILL", True)
    assert not supervisor.causes(), "an ordered kill is no cause for worry"


def test_a_kill_by_somebody_else_is_told_from_an_ordered_one(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("worker", FOREVER, tmp_path))
    psutil.Process(supervisor.pid("worker")).kill()
    until(lambda: supervisor.causes() == {"worker: SIGKILL": 1})


def test_a_frozen_program_stands_still_until_it_is_thawed(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("worker", FOREVER, tmp_path))
    pid = pid_of(supervisor, "worker")
    until(lambda: "started" in supervisor.tail("worker"))
    assert supervisor.freeze("worker")
    until(lambda: status(pid) == psutil.STATUS_STOPPED)
    assert supervisor.thaw("worker")
    until(lambda: status(pid) == psutil.STATUS_SLEEPING)
    assert supervisor.pid("worker") == pid


def test_a_restart_starts_again_even_after_a_clean_exit(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("worker", POLITE, tmp_path))
    until(lambda: "started" in supervisor.tail("worker"))
    before = supervisor.pid("worker")
    assert supervisor.restart("worker")
    until(lambda: supervisor.pid("worker") not in {None, before})
    (exit,) = supervisor.exits
    assert (exit.cause, exit.ordered) == ("exit 0", True)


SLOW = """
import signal, sys, time
asked = []
def ask(number, frame):
    if asked:
        sys.exit("asked twice")
    asked.append(number)
    print("asked", flush=True)
signal.signal(signal.SIGTERM, ask)
print("started", flush=True)
while not (asked and len(sys.argv) > 1):
    time.sleep(0.01)
"""


def test_who_is_asked_to_restart_while_it_ends_is_not_asked_again(supervisor: Supervisor, tmp_path: Path) -> None:
    """A worker would take a second SIGTERM for impatience, and end in the midst of its batch."""
    supervisor.start(python("slow", SLOW, tmp_path))
    until(lambda: "started" in supervisor.tail("slow"))
    assert supervisor.restart("slow")
    until(lambda: "asked" in supervisor.tail("slow"))
    assert supervisor.restart("slow")
    supervisor.stop("slow", seconds=0.5)
    assert "asked twice" not in supervisor.tail("slow")
    assert [exit.cause for exit in supervisor.exits] == ["SIGKILL"]


def test_a_restart_kills_whoever_does_not_end(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dev.supervisor.STOP_SECONDS", 0.2)
    supervisor.start(python("deaf", DEAF, tmp_path))
    until(lambda: "deaf" in supervisor.tail("deaf"))
    before = supervisor.pid("deaf")
    assert supervisor.restart("deaf")
    until(lambda: supervisor.pid("deaf") not in {None, before})
    assert [(exit.cause, exit.ordered, exit.again) for exit in supervisor.exits] == [("SIGKILL", True, True)]


def test_a_hopeless_program_waits_until_it_is_asked_for(supervisor: Supervisor, tmp_path: Path) -> None:
    broken = python("broken", "raise SyntaxError('at line 3')", tmp_path)
    supervisor.start(replace(broken, hopeless=(1,)))
    until(lambda: supervisor.exits)
    assert [(exit.cause, exit.again) for exit in supervisor.exits] == [("exit 1", False)]
    time.sleep(5 * program.RESTART_SECONDS_MIN)
    assert len(supervisor.exits) == 1
    assert not supervisor.restart("broken")
    until(lambda: len(supervisor.exits) == 2)


@pytest.mark.parametrize("frozen", [False, True])
def test_whoever_ignores_sigterm_is_killed_within_the_bound(
    supervisor: Supervisor, tmp_path: Path, frozen: bool
) -> None:
    supervisor.start(python("deaf", DEAF, tmp_path))
    until(lambda: "deaf" in supervisor.tail("deaf"))
    if frozen:
        supervisor.freeze("deaf")
    began = time.monotonic()
    supervisor.stop("deaf", seconds=0.2)
    assert time.monotonic() - began < WAIT_SECONDS
    assert [exit.cause for exit in supervisor.exits] == ["SIGKILL"]
    assert supervisor.pid("deaf") is None


def test_a_stopped_program_is_not_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(python("worker", FOREVER, tmp_path))
    supervisor.stop("worker")
    time.sleep(5 * program.RESTART_SECONDS_MIN)
    assert supervisor.pid("worker") is None
    supervisor.start(python("worker", FOREVER, tmp_path))
    assert supervisor.pid("worker") is not None


def test_it_gives_up_on_a_program_that_never_stays_up_and_shows_its_log(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "RESTART_SECONDS_MAX", 0.01)
    monkeypatch.setattr(program, "QUICK_EXITS_MAX", 3)
    supervisor.start(python("hopeless", "raise SystemExit('no such database')", tmp_path))
    until(lambda: len(supervisor.exits) == 3)
    with pytest.raises(GaveUp, match="no such database"):
        supervisor.check()
    time.sleep(5 * program.RESTART_SECONDS_MIN)
    assert len(supervisor.exits) == 3


def test_a_program_that_does_not_exist_says_so_in_its_log(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(Program("missing", ("/no/such/program",), {}, tmp_path))
    until(lambda: "cannot start /no/such/program: No such file" in supervisor.tail("missing"))


def test_a_program_is_started_again_though_its_folder_of_logs_was_removed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with Supervisor(logs) as supervisor:
        supervisor.start(python("worker", FOREVER, tmp_path))
        before = supervisor.pid("worker")
        shutil.rmtree(logs)
        assert supervisor.kill("worker")
        until(lambda: supervisor.pid("worker") not in {None, before})
        until(lambda: "started" in supervisor.tail("worker"))


def test_a_program_that_cannot_be_started_is_tried_again(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.start(python("worker", FOREVER, tmp_path))
    before = supervisor.pid("worker")

    def no_more(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as overloaded:
        overloaded.setattr("dev.processes.start", no_more)
        supervisor.kill("worker")
        until(lambda: len(supervisor.exits) >= 3)
    killed, failed, *_ = supervisor.exits
    assert (killed.cause, failed.cause) == (
        "SIGKILL",
        "it could not be started: [Errno 24] Too many open files",
    )
    assert failed.again
    until(lambda: supervisor.pid("worker") not in {None, before})


def test_an_order_that_is_not_carried_out_in_time_says_so(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.start(python("worker", FOREVER, tmp_path))
    monkeypatch.setattr("dev.supervisor.ORDER_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="did not answer within 0 s"):
        supervisor.pid("worker")
    monkeypatch.undo()


def test_nothing_is_left_when_the_block_ends_with_an_error(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail_inside() -> None:
        with Supervisor(tmp_path) as supervisor:
            for name in ("one", "two"):
                supervisor.start(python(name, FOREVER, tmp_path))
                pids.append(pid_of(supervisor, name))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert [status(pid) for pid in pids] == ["gone", "gone"]


SUPERVISING = """
import json, sys, time
from pathlib import Path
from dev.program import Program
from dev.supervisor import Supervisor
folder = Path(sys.argv[1])
with Supervisor(folder) as supervisor:
    for name in ("one", "two"):
        supervisor.start(Program(name, (sys.executable, "-c", sys.argv[2]), {}, folder))
    supervisor.freeze("two")
    print(json.dumps([supervisor.pid("one"), supervisor.pid("two")]), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_supervising_process_itself_dies(tmp_path: Path, number: signal.Signals) -> None:
    supervising = subprocess.Popen(
        (sys.executable, "-c", SUPERVISING, str(tmp_path), FOREVER),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=not_ignored,  # noqa: PLW1509 - it touches no lock
    )
    with supervising, supervising.stdout:  # type: ignore[union-attr]
        pids = json.loads(supervising.stdout.readline())  # type: ignore[union-attr]
        assert [status(pid) != "gone" for pid in pids] == [True, True]
        supervising.send_signal(number)
        supervising.wait(WAIT_SECONDS)
    until(lambda: [status(pid) for pid in pids] == ["gone", "gone"])
