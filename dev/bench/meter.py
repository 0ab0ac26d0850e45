"""Where the time goes in the whole system: CPU by kind of process, and the workers' cycles."""

import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dev.bench import cpu
from dev.bench.report import Figure
from dev.system import BANK as BANK_PROCESS
from dev.system import System

ANSWER_SECONDS = 10.0
EVERYTHING = ("API", "workers", "callers", "broker", "PostgreSQL")
CLIENT, BANK = "client", "bank"
"""The benchmark itself, and the third party: they take from the same cores, but nobody pays for them."""
CYCLES = "exactly_once_batch_seconds_count"
RECEIVED = "exactly_once_records_consumed_total"
HANDLED = "exactly_once_events_handled_total"


@dataclass(frozen=True)
class Spent:
    """What was spent between two readings."""

    seconds: float
    cpu: dict[str, float]
    counted: Counter[str]

    @property
    def everything(self) -> float:
        """CPU seconds of all but the client."""
        return sum(self.cpu[name] for name in EVERYTHING)

    def figures(self, section: str, what: str, orders: int, at_most: float | None = None) -> Iterator[Figure]:
        """Return the CPU of an order, and what the workers did for it. `at_most`: ms of everything."""
        everything = 1_000 * self.everything / orders
        yield Figure(section, f"{what}: CPU per order, everything", everything, "ms", at_most=at_most)
        for name in (*EVERYTHING, CLIENT, BANK):
            yield Figure(section, f"{what}: CPU per order, {name}", 1_000 * self.cpu[name] / orders, "ms")
        cycles = self.counted[CYCLES]
        yield Figure(section, f"{what}: cycles of all workers", cycles / self.seconds, "1/s")
        if cycles:
            yield Figure(section, f"{what}: records consumed in a cycle", self.counted[RECEIVED] / cycles, "records")
            yield Figure(section, f"{what}: of them events that took effect", self.counted[HANDLED] / cycles, "events")


class Meter:
    """Reads the processes of a system."""

    def __init__(self, system: System) -> None:
        self._workers = [name for service in system.services for name in system.workers(service)]
        self._system = system
        self._groups: dict[str, Iterable[int]] = {
            "API": _running(system, map(system.api, system.services)),
            "workers": _running(system, self._workers),
            "callers": _running(system, (name for service in system.services for name in system.callers(service))),
            BANK: _running(system, (BANK_PROCESS,)),
            "broker": system.servers.kafka.pids,
            "PostgreSQL": system.servers.postgres.pids,
        }

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def start(self) -> None:
        """Begin a measurement."""
        self._counted = self._count()
        self._at, self._cpu = time.monotonic(), self._spent()

    def stop(self) -> Spent:
        """Return what was spent since `start`."""
        after, seconds = self._spent(), time.monotonic() - self._at
        counted = self._count()
        counted.subtract(self._counted)
        return Spent(seconds, cpu.between(self._cpu, after), counted)

    def _spent(self) -> dict[str, float]:
        return cpu.spent(self._groups) | {CLIENT: time.process_time()}

    def _count(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for name in self._workers:
            with urllib.request.urlopen(self._system.metrics(name), timeout=ANSWER_SECONDS) as answer:
                counted.update(counters(answer.read().decode()))
        return counted


def counters(exposed: str) -> dict[str, int]:
    """Return the counters that matter here, of a worker's /metrics."""
    lines = (line.split(" ") for line in exposed.splitlines() if not line.startswith("#"))
    return {line[0]: int(float(line[1])) for line in lines if line[0] in (CYCLES, RECEIVED, HANDLED)}


def _running(system: System, names: Iterable[str]) -> list[int]:
    return [pid for name in names if (pid := system.supervisor.pid(name))]
