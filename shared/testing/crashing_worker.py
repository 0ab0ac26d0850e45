"""A worker process that dies, freezes, or loses its database session, at one exact call of a port.

It is the real worker of a real container. Only its two ports are wrapped: each call is reported before and after it,
and at the planned one the process sends itself SIGKILL or SIGSTOP. Nothing is cleaned up, no `finally` runs.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any, cast

import psycopg
from dependency_injector import providers

from .. import command
from ..container import ServiceContainer
from ..errors import DatabaseInDoubt, KafkaInDoubt
from ..kafka.client import KafkaClient
from ..postgres.transaction import WorkerDatabase
from ..settings import Settings


class Phase(Enum):
    """When the planned call starts to count."""

    START = "start"
    """From the start of the process."""
    LIVE = "live"
    """From the first cycle that has something to do after the flag was set."""
    RECOVERY = "recovery"
    """From a Kafka transaction in doubt, which the first such cycle causes on purpose."""


class Deed(Enum):
    """What happens there."""

    KILL = "kill"
    """The process sends itself SIGKILL."""
    FREEZE = "freeze"
    """The process sends itself SIGSTOP."""
    CUT = "cut"
    """The server ends the worker's database session. Its answer to a COMMIT is lost with it."""


@dataclass(frozen=True)
class Plan:
    """Where it happens."""

    call: str
    """`kafka.commit`, `database.begin`, `transaction.handle`, ..."""
    after: bool
    """Right after the call returned; otherwise right before it is made."""
    phase: Phase = Phase.LIVE
    deed: Deed = Deed.KILL
    doubt_after: bool = False
    """In `RECOVERY`: the commit in doubt did happen."""

    def __str__(self) -> str:
        when = f"{self.phase.value}{'-of-a-commit' if self.doubt_after and self.phase is Phase.RECOVERY else ''}"
        return f"{when}-{'after' if self.after else 'before'}-{self.call}"


FULL = frozenset({"transaction.forget", "transaction.set_aside", "transaction.receive", "transaction.handle"})
"""These calls count only when they have something to do."""


class Fate:
    """Watches the calls of the ports, and carries out the plan once."""

    def __init__(self, order: "Order") -> None:
        self._plan = None if order.happened.is_set() else order.plan
        self._order = order
        self._live = False
        self._doubted = False

    def before(self, call: str, arguments: tuple[Any, ...]) -> None:
        """Note a call that is about to be made."""
        if self._plan is None:
            return
        if self._doubting(call) and not self._plan.doubt_after:
            self._doubt("was lost on its way")
        self._happen(call, arguments, after=False)

    def after(self, call: str, arguments: tuple[Any, ...], result: Any) -> None:
        """Note a call that returned."""
        if self._plan is None:
            return
        if not self._live and (
            (call == "kafka.poll" and result.records) or (call == "database.unpublished" and result is True)
        ):
            self._live = self._order.armed.is_set()
        if self._doubting(call) and self._plan.doubt_after:
            self._doubt("has lost its answer")
        self._happen(call, arguments, after=True)

    def _doubting(self, call: str) -> bool:
        return (
            self._plan is not None
            and self._plan.phase is Phase.RECOVERY
            and self._live
            and not self._doubted
            and call == "kafka.commit"
        )

    def _doubt(self, what: str) -> None:
        self._doubted = True
        raise KafkaInDoubt(f"the test decides: this commit {what}")

    def _happen(self, call: str, arguments: tuple[Any, ...], *, after: bool) -> None:
        plan = self._plan
        if plan is None or (plan.call, plan.after) != (call, after):
            return
        if call in FULL and not (arguments and arguments[0]):
            return
        if (plan.phase is Phase.LIVE and not self._live) or (plan.phase is Phase.RECOVERY and not self._doubted):
            return
        self._plan = None
        self._order.happened.set()
        if plan.deed is Deed.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif plan.deed is Deed.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self._cut()
            if (call, after) == ("transaction.commit", True):
                raise DatabaseInDoubt("the test decides: the answer to this COMMIT is lost")

    def _cut(self) -> None:
        with psycopg.connect(self._order.settings.database_url.get_secret_value()) as connection:
            connection.execute("""
                SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'exactly-once %'
            """)


class Watched:
    """A port whose calls pass a `Fate`."""

    def __init__(self, port: str, real: object, fate: Fate) -> None:
        self._port = port
        self._real = real
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._fate.before(f"{self._port}.{name}", arguments)
            result = found(*arguments, **named)
            self._fate.after(f"{self._port}.{name}", arguments, result)
            return Watched("transaction", result, self._fate) if (self._port, name) == ("database", "begin") else result

        return call


@dataclass(frozen=True)
class Order:
    """A worker process's instructions."""

    service: str
    settings: Settings
    log: Path
    plan: Plan | None
    armed: Flag
    happened: Flag
    """Set when the plan was carried out: a process started after that has none."""
    build: Callable[[str, Settings], ServiceContainer]
    """Puts the service together in the new process."""
    keyboard: Path | None = None
    """A pipe that a debugger reads from; its output is in the log."""


def main(order: Order) -> None:
    """Run the worker with the command line's code and exit codes."""
    _die_with_parent()
    with order.log.open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    if order.keyboard is not None:
        sys.stdin, sys.stdout = order.keyboard.open(), sys.stderr
    container = order.build(order.service, order.settings)
    fate = Fate(order)

    def connect(slot: int) -> KafkaClient:
        return cast("KafkaClient", Watched("kafka", container.kafka(slot=slot), fate))

    database = cast("WorkerDatabase", Watched("database", container.worker_database(), fate))
    container.worker.override(providers.Object(container.worker(database=database, connect=connect)))
    command.leave(command.run(container, ["worker"]))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
