"""A request of one transaction arrives late, in the middle of the same producer's next one (KAFKA-17754).

The client lost its connection and retried successfully; neither side knows that the first request is still on its way.
librdkafka keeps its epoch from one transaction to the next, so the broker cannot tell whose request it is. Each
scenario is played with the tutorials' loop too, where it does harm: otherwise it would prove nothing.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel

from dev import processes
from dev.servers import Servers
from shared.testing import until
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Rule, Wire, api, statement

pytestmark = pytest.mark.proof

FENCED = (47, 90)
"""INVALID_PRODUCER_EPOCH, PRODUCER_FENCED."""


@pytest.fixture
def wire(servers: Servers) -> Iterator[Wire]:
    with Wire.before(servers) as wire:
        yield wire
        sys.stdout.write(wire.told())


@pytest.fixture
def stage(servers: Servers, wire: Wire, tmp_path: Path) -> Iterator[Stage]:
    """A stage with one partition: what is fed at once is one batch."""
    with Stage(servers, tmp_path, partitions=1) as stage:
        yield stage
        stage.show()


def end_txn_error(reply: bytes) -> int:
    """Return the error code of an EndTxn's reply, version 0 to 2: after length, correlation id, throttle time."""
    return int.from_bytes(reply[12:14], signed=True)


def settled(stage: Stage) -> bool:
    """Return whether no transaction is open on the topic."""
    topic = stage.kit.told.topic
    return stage.ends(topic, IsolationLevel.READ_COMMITTED) == stage.ends(topic, IsolationLevel.READ_UNCOMMITTED)


# ---- the loop of the tutorials


class Stock:
    """The stock loop on a stage's topics; `ends` is how it believes its transactions ended."""

    def __init__(self, stage: Stage, wire: Wire, log: Path) -> None:
        self._stage = stage
        self._log = log
        self._log.touch()
        self._command: list[str | Path] = [
            *(sys.executable, "-m", "tests.faults.stock_loop", wire.address("kafka"), f"{stage.name}-stock"),
            *(stage.kit.asked.topic, stage.kit.told.topic, log),
        ]

    @contextmanager
    def running(self, *more: str) -> Iterator[None]:
        """Run the loop; kill it when the block ends."""
        process = processes.start([*self._command, *more])
        try:
            yield
        finally:
            processes.send(process, signal.SIGKILL)
            process.wait()

    def until_ended(self, *ends: str) -> None:
        """Wait until its transactions have ended so."""
        until(lambda: self._ends() == [*ends], f"its transactions end as {ends}")

    def _ends(self) -> list[str]:
        return self._log.read_text().splitlines()

    def published(self) -> list[int]:
        """Return the input offsets whose copies a read_committed reader sees."""
        self._stage.until(lambda: settled(self._stage), "no transaction is open")
        inputs = {record.event_id: record.offset for record in self._stage.read(self._stage.kit.asked.topic)}
        return [inputs[record.event_id] for record in self._stage.read(self._stage.kit.told.topic)]


@pytest.fixture
def stock(stage: Stage, wire: Wire, tmp_path: Path) -> Stock:
    return Stock(stage, wire, tmp_path / "stock.log")


class Next:
    """The next transaction after a late request, stopped when its rows are in the log, before its offsets."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._rules: list[Rule] = []

    def watch(self) -> None:
        """Watch from now on, before it begins."""
        self._rules = [self._wire.on(api("Produce"), Deed.PASS), self._wire.on(api("AddOffsetsToTxn"), Deed.HOLD)]

    def until_half_done(self) -> None:
        produced, offsets = self._rules
        produced.wait_answer()
        offsets.wait()

    def go_on(self) -> None:
        self._rules[1].release()


def test_the_stock_loop_loses_what_a_late_abort_aborts(stage: Stage, wire: Wire, stock: Stock) -> None:
    """The loop reports a commit of two records that no reader ever sees."""
    following = Next(wire)
    late = wire.on(api("EndTxn(abort)"), Deed.HOLD_AND_CUT, call=following.watch)
    stage.ask()
    with stock.running("fails-once"):
        late.wait()
        following.until_half_done()
        late.release()
        assert end_txn_error(late.wait_answer()) == 0
        following.go_on()
        stock.until_ended("aborted 0 1", "committed 0 1")
        stage.ask()
        stock.until_ended("aborted 0 1", "committed 0 1", "committed 2 3")
    assert stock.published() == [2, 3]


def test_the_stock_loop_publishes_twice_what_a_late_commit_commits(stage: Stage, wire: Wire, stock: Stock) -> None:
    """The loop is killed in the middle of a transaction that the late commit commits."""
    following = Next(wire)
    late = wire.on(api("EndTxn(commit)"), Deed.HOLD_AND_CUT, call=following.watch)
    stage.ask()
    with stock.running():
        late.wait()
        stock.until_ended("committed 0 1")
        stage.ask()
        following.until_half_done()
        late.release()
        assert end_txn_error(late.wait_answer()) == 0
    with stock.running():
        stock.until_ended("committed 0 1", "committed 2 3")
    assert stock.published() == [0, 1, 2, 3, 2, 3]


def test_the_stock_loop_publishes_twice_what_late_offsets_take_back(stage: Stage, wire: Wire, stock: Stock) -> None:
    """One transaction's late offsets replace those of the next, and are committed with it."""
    late = wire.on(api("TxnOffsetCommit"), Deed.HOLD_AND_CUT)
    stage.ask()
    with stock.running():
        late.wait()
        stock.until_ended("committed 0 1")
        ending = wire.on(api("EndTxn(commit)"), Deed.HOLD)
        stage.ask()
        ending.wait()
        late.release()
        late.wait_answer()
        ending.release()
        stock.until_ended("committed 0 1", "committed 2 3")
    with stock.running():
        stock.until_ended("committed 0 1", "committed 2 3", "committed 2 3")
    assert stock.published() == [0, 1, 2, 3, 2, 3]


# ---- ours

LOSSES = {"cut": Deed.HOLD_AND_CUT, "timeout": Deed.HOLD}
"""Why the client asks again: its connection breaks, or the answer is late."""


@pytest.mark.parametrize("loss", LOSSES)
def test_our_worker_publishes_once_what_a_late_commit_would_commit(stage: Stage, wire: Wire, loss: str) -> None:
    """It replaced the suspect producer before the next transaction, so the late commit is fenced."""
    worker = stage.worker(None, **wire.settings(stage.dsn))
    stage.ask()
    stage.until_drained()
    following = Next(wire)
    late = wire.on(api("EndTxn(commit)"), LOSSES[loss], call=following.watch)
    stage.ask()
    late.wait()
    stage.until(lambda: "committed, but under suspicion" in worker.log(), "the producer is suspect")
    stage.ask()
    following.until_half_done()
    late.release()
    assert end_txn_error(late.wait_answer()) in FENCED
    worker.send(signal.SIGKILL)
    assert worker.ended() == -signal.SIGKILL
    assert worker.restarts == 0
    stage.worker(None, **wire.settings(stage.dsn))
    stage.ask()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []
    assert wire.seen()["EndTxn(abort)"] == 0, "it aborts by a new epoch, which no late request has"


@pytest.mark.parametrize("loss", LOSSES)
def test_our_worker_goes_on_where_late_offsets_would_take_it_back(stage: Stage, wire: Wire, loss: str) -> None:
    """It is killed before it deletes the next transaction's rows: a successor that believed the older published
    position would publish them again.
    """
    worker = stage.worker(None, **wire.settings(stage.dsn))
    stage.ask()
    stage.until_drained()
    late = wire.on(api("TxnOffsetCommit"), LOSSES[loss])
    stage.ask()
    late.wait()
    stage.until_drained()
    ending = wire.on(api("EndTxn(commit)"), Deed.HOLD)
    stage.ask()
    ending.wait()
    late.release()
    late.wait_answer()
    killed = wire.on(
        statement("DELETE FROM exactly_once_outbox"), Deed.DROP_REQUEST, call=lambda: worker.send(signal.SIGKILL)
    )
    ending.release()
    killed.wait()
    assert worker.ended() == -signal.SIGKILL
    stage.worker(None, **wire.settings(stage.dsn))
    stage.ask()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_rows_that_come_late_are_not_in_the_log(stage: Stage, wire: Wire) -> None:
    """The next process has aborted their transaction and published them itself."""
    worker = stage.worker(None, **wire.settings(stage.dsn))
    stage.ask()
    stage.until_drained()
    late = wire.on(api("Produce"), Deed.HOLD, call=lambda: worker.send(signal.SIGKILL))
    stage.ask()
    late.wait()
    assert worker.ended() == -signal.SIGKILL
    stage.worker(None, **wire.settings(stage.dsn))
    stage.until_drained()
    before = stage.ends(stage.kit.told.topic, IsolationLevel.READ_UNCOMMITTED)
    late.release()
    late.wait_answer()
    assert stage.ends(stage.kit.told.topic, IsolationLevel.READ_UNCOMMITTED) == before
    assert settled(stage), "the last stable offset stands still"
    stage.ask()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []
