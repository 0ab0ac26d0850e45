"""One request to Kafka, or its reply, is lost, held, doubled or cut off. The worker goes on, and the books balance."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.servers import Servers
from tests.faults.chosen import chosen
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Wire, api

HOLD_SECONDS = 4.0
"""More than two socket timeouts, less than the transaction's."""


@dataclass(frozen=True)
class Loss:
    """A loss to play."""

    api: str
    deed: Deed
    start: bool = False
    """Whether the worker starts then, or already works."""

    def __str__(self) -> str:
        return f"{'start-' if self.start else ''}{self.api}-{self.deed.name.lower()}"


TRANSACTION = ("AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn")
"""The requests of a transaction."""
START = ("FindCoordinator", "InitProducerId", "JoinGroup", "SyncGroup", "OffsetFetch", "Fetch", "ListOffsets")
"""The requests that come before."""
DEEDS = (Deed.DROP_REQUEST, Deed.DROP_REPLY, Deed.HOLD, Deed.DUPLICATE, Deed.CUT_BEFORE, Deed.CUT_AFTER)
CUTS = (Deed.CUT_BEFORE, Deed.CUT_AFTER)
"""Deeds for the consumer's requests: on an open connection it waits a minute for an answer."""


def losses() -> Iterable[Loss]:
    """Return all losses."""
    yield from (Loss(name, deed) for name in TRANSACTION for deed in DEEDS)
    yield Loss("Produce", Deed.REFUSE)
    yield from (Loss("InitProducerId", deed, start=True) for deed in DEEDS)
    yield from (Loss(name, deed, start=True) for name in START if name != "InitProducerId" for deed in CUTS)


def play(loss: Loss, servers: Servers, logs: Path) -> list[str]:
    """Play a loss."""
    hold_seconds = HOLD_SECONDS if loss.deed is Deed.HOLD else None
    with Wire.before(servers) as wire, Stage(servers, logs) as stage:
        if not loss.start:
            stage.worker(None, **wire.settings(stage.dsn))
            stage.ask()
            stage.request()
            stage.until_drained()
        rule = wire.on(api(loss.api), loss.deed, hold_seconds=hold_seconds)
        stage.ask()
        stage.request()
        if loss.start:
            stage.worker(None, **wire.settings(stage.dsn))
        stage.until(rule.happened.is_set, f"{loss.api} is {loss.deed.value}")
        stage.until_drained()
        stage.ask()
        stage.request()
        stage.until_drained()
        stage.stop()
        return [*stage.problems(), *wire.refused]


@pytest.mark.parametrize("cell", chosen(losses(), "EndTxn-drop_reply", "Produce-cut_after"), ids=str)
def test_a_worker_that_loses(cell: Loss, problems: list[str]) -> None:
    assert problems == []
