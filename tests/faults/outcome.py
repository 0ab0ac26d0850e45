"""The outcome of one storm, and the play of a scenario from its first event to its result."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dev.servers import ClusterServers, Servers
from tests.faults.play import Play
from tests.faults.scenarios import Scenario, Storm

LOG_CHARACTERS_MAX = 60_000
"""How much is kept of the end of the workers' logs of a failed play."""


@dataclass(frozen=True)
class Outcome:
    """One storm."""

    scenario: str
    seed: int
    plays: int
    events: int
    faults: dict[str, int]
    anomalies: list[str]
    recoveries: list[float]
    """Seconds for which a partition was silent after each blow."""
    seconds: float
    log: str = ""


def play(scenario: Scenario, servers: Servers | ClusterServers, seed: int, logs: Path) -> Outcome:
    """Play a scenario once. Any failure is an anomaly, including no rest at the end."""
    began = time.monotonic()
    dice = random.Random(f"{scenario.name} {seed}")
    with ExitStack() as stack, ThreadPoolExecutor(scenario.plays) as pool:

        def enter(_number: int) -> Play:
            return stack.enter_context(
                Play(servers, logs, dice.getrandbits(32), workers=scenario.workers, settings=dict(scenario.settings))
            )

        plays = list(pool.map(enter, range(scenario.plays)))
        wrong: list[str] = []
        logs_of_wrong: list[str] = []
        try:
            scenario.strike(Storm(servers, plays, dice))
            list(pool.map(Play.settle, plays))
        except Exception as error:  # noqa: BLE001 - it is part of the result
            wrong.append(f"did not come to rest: {error!r}")
        for one in plays:
            found = [*one.errors, *map(str, one.anomalies())]
            if found:
                logs_of_wrong.append(one.stage.logged()[-LOG_CHARACTERS_MAX:])
            wrong += found
        # What all plays share was done once.
        faults: Counter[str] = Counter()
        for one in plays:
            faults |= one.faults
        own = sum((one.faults for one in plays), Counter())
        for fault in ("SIGKILL", "SIGSTOP"):
            if own[fault]:
                faults[fault] = own[fault]
        return Outcome(
            scenario.name,
            seed,
            len(plays),
            sum(one.events for one in plays),
            dict(faults),
            wrong,
            [round(seconds, 2) for one in plays for seconds in one.recoveries()],
            round(time.monotonic() - began, 1),
            "\n".join(logs_of_wrong),
        )
