"""One session of `make dev`: it starts everything, restarts what a change concerns, and ends in order."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from dev.develop.changes import Watch, concern, told
from dev.develop.ending import Ended, Ending
from dev.develop.fleet import BANK, ROOT, Process, fleet, grouped, program
from dev.develop.merged import MergedLog, colours, in_colour
from dev.program import Exit, Program
from dev.servers import ServerError, service_names
from dev.servers.background import BOOKS, CONSOLE, HOME, borrowed, forget, is_up
from dev.servers.places import abandon
from dev.supervisor import Supervisor

LOGS = HOME / "dev"
DEBUGGING_LOG = HOME / "dev.log"
LOCK = HOME / "dev.lock"

POLL_SECONDS = 0.1
READY_POLL_SECONDS = 0.5
# Nine interpreters start at once on two cores: about eight seconds.
READY_SECONDS = 90.0
# After that it is asked more seldom: what is mended is ready some seconds later, and an answer costs CPU.
LATE_POLL_SECONDS = 2.0
# A worker that has been asked by Ctrl+C ends within a second or two. One that stands in the debugger does not end.
ALONE_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    port: int | None
    """Of the first API."""
    kafka_port: int | None
    postgres_port: int | None
    debugged: str | None
    """The service whose worker is in the foreground."""


@dataclass(frozen=True)
class Readiness:
    """The processes that are not ready in time; none once all are."""

    missing: tuple[str, ...]
    seconds: float


Event = frozenset[Path] | Exception | Readiness


def run(options: Options, ending: Ending) -> None:
    """Run a session, until it is asked to end. Raises `Ended`, or `ServerError` if it cannot begin."""
    services = service_names()
    if not services:
        raise ServerError("There is no service yet: make service NAME=...")
    if options.debugged is not None and options.debugged not in services:
        raise ServerError(f"SERVICE={options.debugged}: there is no such service, but {', '.join(services)}")
    with ExitStack() as stack:
        stack.enter_context(_alone())
        processes = fleet(services, options.port)
        if not is_up(ROOT):  # the servers are ours, also while they start
            ending.at_once += [lambda: forget(ROOT), abandon]
            stack.callback(abandon)
        state = stack.enter_context(borrowed(ROOT, options.kafka_port, options.postgres_port))
        debugged = next((p for p in processes if (p.service, p.kind) == (options.debugged, "worker")), None)
        bank = next((p for p in processes if p.kind == BANK), None)
        programs = {
            p.name: program(
                p, state["bootstrap"], state["database_url"], ROOT / BOOKS, bank=bank, debugged=p == debugged
            )
            for p in processes
        }
        log = stack.enter_context(_log(processes, debugged, stack))
        supervisor = stack.enter_context(Supervisor(ROOT / LOGS))
        ending.at_once.append(supervisor.kill_all)
        session = Session(processes, debugged, programs, log, supervisor)
        session.show_addresses()
        try:
            session.live()
        except Ended as ended:
            session.end(ended.number)
            raise


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse a second session: it would have the same ports, topics and tables."""
    place = ROOT / LOCK
    place.parent.mkdir(exist_ok=True)
    with place.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ServerError(f"`make dev` runs here already: process {lock.read(20)}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _log(processes: Iterable[Process], debugged: Process | None, stack: ExitStack) -> MergedLog:
    """Make the log of all processes but the one in the foreground; beside that one it goes to a file."""
    followed = [process for process in processes if process != debugged]
    files = {process.name: ROOT / LOGS / f"{process.name.replace(' ', '-')}.log" for process in followed}
    for file in files.values():
        file.unlink(missing_ok=True)  # of an earlier session
    if debugged is not None:
        return MergedLog(stack.enter_context((ROOT / DEBUGGING_LOG).open("w")), files)
    return MergedLog(sys.stdout, files, colours(grouped(followed)) if in_colour(sys.stdout) else None)


class Session:
    """The processes while the session lives."""

    def __init__(
        self,
        processes: Iterable[Process],
        debugged: Process | None,
        programs: Mapping[str, Program],
        log: MergedLog,
        supervisor: Supervisor,
    ) -> None:
        self._processes = tuple(processes)
        self._debugged = debugged
        self._programs = programs
        self._log = log
        self._supervisor = supervisor
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._exits_seen = 0

    def show_addresses(self) -> None:
        """Say where the processes are; the servers' addresses are printed already."""
        lines = []
        for process in self._processes:
            if process.kind == BANK:
                lines.append(f"{process.name}: {process.url}/bookings")
            elif process.kind == CONSOLE:
                lines.append(f"{process.name}: {process.url}/")
            elif process.kind == "api":
                lines.append(f"{process.name}: {process.url}/docs, metrics at {process.url}/metrics")
            else:
                lines.append(f"{process.name}: metrics at {process.url}/metrics")
        self._say("\n".join(lines))
        if self._debugged is not None:
            self._tell(f"The log of all other processes: tail -f {DEBUGGING_LOG}")

    def live(self) -> None:
        """Start the processes and follow the changes; for ever, until `Ended`."""
        others = [process for process in self._processes if process != self._debugged]
        for process in others:
            self._supervisor.start(self._programs[process.name])
        asking = threading.Thread(target=self._ask_until_ready, args=(others,), name="ready", daemon=True)
        asking.start()
        with Watch(ROOT, self._events.put):
            while True:
                with suppress(Empty):
                    self._on_event(self._events.get(timeout=POLL_SECONDS))
                self._show_exits()
                if self._log.broken:
                    raise Ended(signal.SIGPIPE)

    def end(self, number: signal.Signals) -> None:
        """End all processes: those that take requests first, and last what others ask."""
        self._say("Ending. Ctrl+C once more ends at once")
        there = [process for process in self._processes if process.name in self._supervisor.names]
        if self._debugged in there:
            # The terminal has sent Ctrl+C to this one too, and a second signal would end it in the midst of its work.
            alone_seconds = ALONE_SECONDS if number == signal.SIGINT else 0.0
            self._supervisor.stop(self._debugged.name, seconds=ALONE_SECONDS, alone_seconds=alone_seconds)
        for kinds in (("api", CONSOLE), ("worker", "caller"), (BANK,)):
            self._supervisor.stop(*(process.name for process in there if process.kind in kinds))

    def _ask_until_ready(self, processes: Iterable[Process]) -> None:
        """Report readiness; before that, once, who is late. A process may be mended at any time: so the session, whose
        end ends this thread, is the only limit.
        """
        began = time.monotonic()
        late = False
        waiting = list(processes)
        while waiting := [process for process in waiting if not process.is_ready()]:
            passed = time.monotonic() - began
            if not late and passed > READY_SECONDS:
                late = True
                self._events.put(Readiness(tuple(process.name for process in waiting), passed))
            time.sleep(LATE_POLL_SECONDS if late else READY_POLL_SECONDS)
        self._events.put(Readiness((), time.monotonic() - began))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Readiness):
            self._on_ready(event)
        elif isinstance(event, Exception):
            self._say(
                f"Files cannot be watched ({event}), so nothing starts again with a change. With "
                "WATCHFILES_FORCE_POLLING=1 in the environment they are looked at instead"
            )
        else:
            self._on_change(event)

    def _on_ready(self, readiness: Readiness) -> None:
        if readiness.missing:
            self._say(f"Not ready after {readiness.seconds:.0f} s: {', '.join(readiness.missing)}. See their lines")
        else:
            self._say(f"Everything is ready after {readiness.seconds:.1f} s. A change starts again what it concerns")
        if self._debugged is not None and self._debugged.name not in self._supervisor.names:
            self._tell(f"{self._debugged.name}, here in the foreground; Ctrl+C ends all")
            self._supervisor.start(self._programs[self._debugged.name])

    def _on_change(self, paths: frozenset[Path]) -> None:
        found = concern(paths, {process.service for process in self._processes})
        what = told(paths)
        running = self._supervisor.names
        concerned = [
            p.name
            for p in self._processes
            if p.kind != BANK and (p.service in found.restart or (p.kind == CONSOLE and found.restart))
        ]
        again = [name for name in concerned if name in running]
        if again:
            self._log.say(f"{what} changed: {', '.join(again)} start again")
        for name in again:
            self._supervisor.restart(name)
        for service in sorted(found.migrate):
            # Applied while it is being written, it would count as done: what is written later would never run.
            self._log.say(f"{what} changed: when it is finished, run .venv/bin/python -m services.{service} migrate")
        for service in sorted(found.unknown):
            self._log.say(
                f"{what} changed: {service} was not there when this began; end `make dev`, and start it again"
            )

    def _show_exits(self) -> None:
        exits = self._supervisor.exits
        for exit in exits[self._exits_seen :]:
            self._show_exit(exit)
        self._exits_seen = len(exits)

    def _show_exit(self, exit: Exit) -> None:
        ours = self._debugged is not None and exit.name == self._debugged.name
        if exit.ordered and not ours:
            return
        when = "it starts again" if exit.again else "it starts again with the next change of a file that concerns it"
        (self._tell if ours else self._log.say)(f"{exit.name} has ended ({exit.cause}): {when}")

    def _say(self, words: str) -> None:
        """Tell the reader; also in the log, where that is not what the reader sees."""
        self._log.say(words)
        if self._debugged is not None:
            self._tell(words)

    def _tell(self, words: str) -> None:
        """Tell the reader, who may be in the debugger: so only what matters there."""
        try:
            print(words, flush=True)
        except OSError:
            self._log.broken = True
