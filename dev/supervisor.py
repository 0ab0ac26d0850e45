"""Starts the processes of the system, keeps them alive, and breaks them when asked to.

A worker that is in doubt ends and relies on being restarted; in production systemd or Kubernetes does that, here
this does. It also strikes for the kill test: it knows which process is which, so it can kill, freeze and thaw one,
and tell an exit that was ordered from one that was not.
"""

import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dev import processes
from dev.program import QUICK_EXITS_MAX, Child, Exit, Program

# Beyond the grace period of the services (15 s), so that SIGKILL is the exception.
STOP_SECONDS = 20.0
# An order to the thread is carried out at once, unless the machine is badly overloaded: it may then have to wait for
# the start of a process (`processes.TIE_SECONDS`).
ORDER_SECONDS = 40.0
LOG_LINES_SHOWN = 25

Result = TypeVar("Result")


class GaveUp(Exception):
    """A program ended so often right after its start that starting it again is pointless."""


class Supervisor:
    """Keeps programs running. One thread of its own does all the work: the kernel ties the children to that thread."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, Child] = {}
        self._exits: list[Exit] = []
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        # A daemon, so that an impatient Ctrl+C does not wait for it; the kernel ends the children then.
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop(*self.names)
        finally:
            self._closing.set()
            self._thread.join(ORDER_SECONDS)

    def start(self, program: Program) -> None:
        """Start `program` and keep it running: it is started again after any exit but `exit 0`."""

        def order() -> None:
            old = self._children.get(program.name)
            if old is not None and old.running:
                raise ValueError(f"{program.name} is running already")
            log = self._logs / f"{program.name.replace(' ', '-')}.log"
            self._children[program.name] = Child(program, log)

        self._do(order)

    def stop(self, *names: str, seconds: float = STOP_SECONDS, alone_seconds: float = 0.0) -> None:
        """End programs for good: SIGTERM, and SIGKILL after `seconds`. They have `alone_seconds` before that, if
        somebody else has asked them to end.
        """

        def release() -> None:
            for child in (self._children[name] for name in names):
                child.wanted, child.ordered = False, True

        def order() -> None:
            for child in (self._children[name] for name in names):
                child.ask()
                child.send(signal.SIGCONT)  # a frozen process would keep SIGTERM waiting for ever

        self._do(release)
        if alone_seconds:
            self._ended(names, alone_seconds)
        self._do(order)
        if not self._ended(names, seconds):
            self._do(lambda: [self._children[name].send(signal.SIGKILL) for name in names])
            self._ended(names, ORDER_SECONDS)

    def restart(self, name: str) -> bool:
        """Ask a program to end with SIGTERM, as a deployment does; it is started again whatever its exit code is. It is
        killed if it takes longer than `STOP_SECONDS`. One that does not run is started now.

        False if it was not running.
        """

        def order() -> bool:
            child = self._children[name]
            child.ordered = child.again = child.ask(STOP_SECONDS)
            if not child.again:
                child.renew()
            return child.again

        return self._do(order)

    def kill(self, name: str) -> bool:
        """Kill a program with SIGKILL; it is started again. False if it was not running."""

        def order() -> bool:
            child = self._children[name]
            sent = child.send(signal.SIGKILL)
            child.ordered = child.ordered or sent
            return sent

        return self._do(order)

    def kill_all(self) -> None:
        """Kill everything at once, in a process that ends now: this does not ask the thread, which may be busy."""
        for child in tuple(self._children.values()):
            processes.send(child.process, signal.SIGKILL)

    def freeze(self, name: str) -> bool:
        """Stop a program in the middle of whatever it does, until `thaw`. False if it was not running."""
        return self._do(lambda: self._children[name].send(signal.SIGSTOP))

    def thaw(self, name: str) -> bool:
        """Let a frozen program continue. False if it was not running."""
        return self._do(lambda: self._children[name].send(signal.SIGCONT))

    @property
    def names(self) -> tuple[str, ...]:
        """The programs, in the order of their first start."""
        return self._do(lambda: tuple(self._children))

    @property
    def exits(self) -> tuple[Exit, ...]:
        """Every exit so far, in order."""
        return self._do(lambda: tuple(self._exits))

    def causes(self) -> Counter[str]:
        """Count the exits that were not ordered, by program and cause."""
        return Counter(f"{e.name}: {e.cause}" for e in self.exits if not e.ordered)

    def pid(self, name: str) -> int | None:
        """Return the process id of a program; None while it does not run."""
        return self._do(lambda: child.process.pid if (child := self._children[name]).running else None)

    def check(self) -> None:
        """Raise `GaveUp`, with the end of the log, if a program will not be started again."""
        for name in self._do(lambda: [child.program.name for child in self._children.values() if child.given_up]):
            ended = f"{name} ended {QUICK_EXITS_MAX} times right after its start"
            raise GaveUp(f"{ended}. Its log ends:\n{self.tail(name)}")

    def log(self, name: str) -> Path:
        """Return the file with everything a program wrote, over all its starts."""
        return self._do(lambda: self._children[name].log)

    def tail(self, name: str, lines: int = LOG_LINES_SHOWN) -> str:
        """Return the last lines of a program's log; reads 64 kB of it at most."""
        log = self.log(name)
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65_536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def _ended(self, names: Iterable[str], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while any(self.pid(name) is not None for name in names):
            if time.monotonic() > deadline:
                return False
            time.sleep(processes.POLL_SECONDS)
        return True

    def _do(self, order: Callable[[], Result]) -> Result:
        """Have the thread do `order`, and return its answer."""
        answer: Future[Result] = Future()
        self._orders.put((order, answer))
        try:
            return answer.result(ORDER_SECONDS)
        except TimeoutError:
            if answer.done():  # the order's own
                raise
            raise TimeoutError(
                f"who starts and ends the processes did not answer within {ORDER_SECONDS:.0f} s"
            ) from None

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                order, answer = self._orders.get(timeout=processes.POLL_SECONDS)
            except queue.Empty:
                pass
            else:
                try:
                    answer.set_result(order())
                except Exception as error:  # noqa: BLE001 - it belongs to the one who asked
                    answer.set_exception(error)
            for child in self._children.values():
                self._exits += [ended for ended in (child.reap(), child.start_again_if_due()) if ended is not None]
