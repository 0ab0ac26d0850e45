"""A worker loses its whole network in the middle of its work: nothing arrives, and nothing is closed. The
network comes back when the group has given the worker up.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.servers import Servers
from tests.faults.chosen import chosen
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Wire, api, commit_of
from tests.faults.wire.rules import When

MOMENTS: dict[str, When] = {
    "COMMIT": commit_of("UPDATE exactly_once_lane AS lane SET position"),
    "Produce": api("Produce"),
    "TxnOffsetCommit": api("TxnOffsetCommit"),
    "EndTxn": api("EndTxn"),
    "Heartbeat": api("Heartbeat"),
}


@dataclass(frozen=True)
class Darkness:
    """A moment when the network goes away."""

    moment: str
    """The last request that is sent."""
    arrives: bool
    """Whether it is delivered; its answer is not."""

    def __str__(self) -> str:
        return f"{'after' if self.arrives else 'before'}-{self.moment}"


def play(darkness: Darkness, servers: Servers, logs: Path) -> list[str]:
    """Cut the network off, and restore it."""
    with Wire.before(servers) as wire, Stage(servers, logs) as stage:
        stage.worker(None, **wire.settings(stage.dsn))
        stage.ask()
        stage.request()
        stage.until_drained()
        deed = Deed.PASS if darkness.arrives else Deed.DROP_REQUEST
        rule = wire.on(MOMENTS[darkness.moment], deed, call=wire.blackhole)
        stage.ask()
        stage.request()
        stage.until(rule.happened.is_set, f"{darkness.moment} comes")
        stage.until(lambda: stage.members() == 0, "the group has given the worker up")
        wire.heal()
        stage.until_drained()
        stage.ask()
        stage.request()
        stage.until_drained()
        stage.stop()
        return [*stage.problems(), *wire.refused]


@pytest.mark.parametrize(
    "cell",
    chosen((Darkness(moment, arrives) for moment in MOMENTS for arrives in (False, True)), "after-EndTxn"),
    ids=str,
)
def test_a_worker_whose_network_goes_away(cell: Darkness, problems: list[str]) -> None:
    assert problems == []
