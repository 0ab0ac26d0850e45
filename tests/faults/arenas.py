"""Plays scenarios on the servers that each needs, as many side by side as these can take."""

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dev.servers import ClusterServers, Servers, running, running_cluster
from tests.faults.outcome import Outcome, play
from tests.faults.scenarios import FORGETFUL, Arena, Scenario

AT_ONCE = {Arena.SHARED: 6, Arena.FORGETFUL: 4, Arena.BREAKABLE: 1, Arena.CLUSTER: 1}
"""Storms at once: on two cores six plays leave a session of a second enough time, and a server has one fate."""


@contextmanager
def servers_of(arena: Arena) -> Iterator[Servers | ClusterServers]:
    """Start the servers of an arena."""
    if arena is Arena.CLUSTER:
        with running_cluster() as cluster:
            yield cluster
    else:
        with running(kafka_settings=FORGETFUL if arena is Arena.FORGETFUL else None) as servers:
            yield servers


def play_all(scenarios: Sequence[Scenario], seeds: Iterable[int], report: Callable[[Outcome], None]) -> list[Outcome]:
    """Play every scenario with every seed, and report each outcome as it comes."""
    seeds = list(seeds)
    outcomes: list[Outcome] = []
    one_at_a_time = threading.Lock()
    for arena in Arena:
        chosen = [scenario for scenario in scenarios if scenario.arena is arena]
        if not chosen:
            continue
        with (
            tempfile.TemporaryDirectory(prefix="exactly-once-faults-") as logs,
            servers_of(arena) as servers,
            ThreadPoolExecutor(AT_ONCE[arena]) as pool,
        ):

            def one(pair: tuple[int, Scenario], servers: Servers | ClusterServers = servers, logs: str = logs) -> None:
                seed, scenario = pair
                outcome = play(scenario, servers, seed, Path(logs))
                with one_at_a_time:
                    outcomes.append(outcome)
                    report(outcome)

            list(pool.map(one, [(seed, scenario) for seed in seeds for scenario in chosen]))
    return outcomes
