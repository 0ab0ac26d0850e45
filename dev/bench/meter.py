"""Where the time goes in the whole system: CPU by kind of process, and the workers' cycles."""

import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from dev.bench import cpu
from dev.bench.report import Figure
from dev.servers import Servers
from dev.supervisor import Supervisor
from dev.system import BANK as BANK_PROCESS
from dev.system import System

ANSWER_SECONDS = 10.0
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
        """CPU seconds of all but the client and the bank."""
        return sum(seconds for name, seconds in self.cpu.items() if name not in (CLIENT, BANK))

    def figures(self, section: str, what: str, orders: int, at_most: float | None = None) -> Iterator[Figure]:
        """Return the CPU of an order, and what the workers did for it. `at_most`: ms of everything."""
        everything = 1_000 * self.everything / orders
        yield Figure(section, f"{what}: CPU per order, everything", everything, "ms", at_most=at_most)
        for name in self.cpu:
            yield Figure(section, f"{what}: CPU per order, {name}", 1_000 * self.cpu[name] / orders, "ms")
        if cycles := self.counted[CYCLES]:
            yield Figure(section, f"{what}: cycles of all workers", cycles / self.seconds, "1/s")
            yield Figure(section, f"{what}: records consumed in a cycle", self.counted[RECEIVED] / cycles, "records")
            yield Figure(section, f"{what}: of them events that took effect", self.counted[HANDLED] / cycles, "events")


class Meter:
    """Reads the processes of a system."""

    def __init__(
        self,
        supervisor: Supervisor,
        servers: Servers,
        processes: Mapping[str, Iterable[str]],
        metrics: Sequence[str] = (),
    ) -> None:
        """Read the servers, and `processes` by group; `metrics` are the workers' addresses."""
        self._metrics = metrics
        self._groups: dict[str, Iterable[int]] = {
            **{group: [pid for name in names if (pid := supervisor.pid(name))] for group, names in processes.items()},
            "broker": servers.kafka.pids,
            "PostgreSQL": servers.postgres.pids,
        }

    @classmethod
    def of(cls, system: System) -> Self:
        """Return one for our own system."""
        workers = [name for service in system.services for name in system.workers(service)]
        processes = {
            "API": map(system.api, system.services),
            "workers": workers,
            "callers": [name for service in system.services for name in system.callers(service)],
            BANK: [BANK_PROCESS],
        }
        return cls(system.supervisor, system.servers, processes, list(map(system.metrics, workers)))

    @property
    def workers(self) -> int:
        """How many workers it reads."""
        return len(self._metrics)

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
        for address in self._metrics:
            with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
                counted.update(counters(answer.read().decode()))
        return counted


def counters(exposed: str) -> dict[str, int]:
    """Return the counters that matter here, of a worker's /metrics."""
    lines = (line.split(" ") for line in exposed.splitlines() if not line.startswith("#"))
    return {line[0]: int(float(line[1])) for line in lines if line[0] in (CYCLES, RECEIVED, HANDLED)}
