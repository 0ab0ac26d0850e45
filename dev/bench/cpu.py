"""CPU seconds of processes with all their children, those that have ended included.

A PostgreSQL backend that ends takes its times out of /proc. But its parent reaps it, and has them from then on among
the times of its children. So the sum over a tree only grows.
"""

from collections.abc import Iterable, Mapping

import psutil

from dev.bench.inventory import BenchError

TRIES_MAX = 10
"""A process that ends while a tree is read makes the reading void; backends come and go seldom."""


def spent(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return the CPU seconds that each group has spent, given its roots by process id. Raises `BenchError` if a root
    has ended.
    """
    return {name: sum(_tree(root) for root in roots) for name, roots in groups.items()}


def between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds spent between two readings."""
    return {name: after[name] - before[name] for name in after}


def _tree(root: int) -> float:
    for _ in range(TRIES_MAX):
        try:
            parent = psutil.Process(root)
            # The parent first: what ends after that is missed by the children's reading, which then begins anew. The
            # other way round it would be counted twice.
            total = _seconds(parent)
            return total + sum(map(_seconds, parent.children(recursive=True)))
        except psutil.NoSuchProcess as gone:
            if gone.pid == root:
                raise BenchError(f"process {root} ended while it was measured") from gone
    raise BenchError(f"the children of process {root} end faster than they can be counted")


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
