"""A broker gives every answer in the matrix of docs/decision-table.md to every request of a transaction: the production
producer takes it as the matrix says, within its budget, and works again afterwards.

The brokers are librdkafka's own (see `mock_cluster`): they show how the client takes an error. The other tests of this
folder show on a real Kafka that nothing is then lost or published twice.
"""

import multiprocessing
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from shared.errors import ContentRefused, Fenced, GenerationLost, KafkaInDoubt, KafkaUnavailable, Misconfigured
from shared.kafka.consumer import committed_offsets
from shared.kafka.consumer import configuration as consumer_configuration
from shared.kafka.ended_transactions import ENDED_SECONDS
from shared.kafka.producer import CONTENT, GENERATION, REFUSED, TransactionalProducer
from shared.protocol.ports import Committed, Input, OutboxRow
from shared.testing import SECONDS_MAX, until
from shared.worker.watchdog import EXIT_CODE, Watchdog
from tests.faults import trail
from tests.faults.mock_cluster import Api, MockCluster
from tests.faults.stage import StageSettings

TABLE = Path(__file__).parents[2] / "docs" / "decision-table.md"

CALLS = ("renew", "begin", "produce", "send_offsets", "commit", "committed")
"""The calls of a recovery and a cycle, in their order."""

ROWS = "rows"
"""The client sends rows on its own from `produce` on; `send_offsets` or `commit` finds what became of them."""

COLUMNS = {
    "InitProducerId": (Api.InitProducerId, "renew"),
    "FindCoordinator": (Api.FindCoordinator, "renew"),
    "ListOffsets": (Api.ListOffsets, "renew"),
    "AddPartitionsToTxn": (Api.AddPartitionsToTxn, ROWS),
    "Produce": (Api.Produce, ROWS),
    "AddOffsetsToTxn": (Api.AddOffsetsToTxn, "send_offsets"),
    "FindCoordinator (group)": (Api.FindCoordinator, "send_offsets"),
    "TxnOffsetCommit": (Api.TxnOffsetCommit, "send_offsets"),
    "EndTxn": (Api.EndTxn, "commit"),
    "OffsetFetch": (Api.OffsetFetch, "committed"),
}
"""The matrix has a column for each request, which belongs to one call, or to the rows."""

WORDS: dict[type[Exception], str] = {
    KafkaInDoubt: "doubt",
    GenerationLost: "generation",
    ContentRefused: "less",
    Misconfigured: "refused",
    KafkaUnavailable: "wait",
    Fenced: "fenced",
}

TRANSACTION_SECONDS = 5.0
"""The shortest transaction timeout that the settings allow, and the budget of a call. For committed offsets it is 5 s
too.
"""

SLACK_SECONDS = 5.0
"""For a busy machine, and for the socket timeout by which the client may overrun a budget."""

AT_ONCE = 24
"""Cases played side by side: nearly all of a case is waiting."""


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    column: str
    answer: str
    once: str
    lasting: str

    def __str__(self) -> str:
        return f"{self.column}-{self.answer}"


def matrix() -> Iterator[Case]:
    """Read the matrix: a row for each group of answers taken alike; `a / b` is for once / lasting."""
    lines = TABLE.read_text().split("## What each answer leads to\n")[1].split("\n## ")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    assert head[1:] == list(COLUMNS)
    for answers, *cells in rows:
        for answer in re.findall(r"[A-Z_]{5,}", answers):
            for column, cell in zip(COLUMNS, cells, strict=True):
                once, _, lasting = cell.partition(" / ")
                yield Case(column, answer, once, lasting or once)


class Seen(NamedTuple):
    """The results of a case's answers, in words of the matrix."""

    once: str
    lasting: str
    after_once: str
    after_lasting: str
    unused: int
    """The number of answers never requested."""
    reasons: tuple[str, ...]
    """The producer's reasons, to explain a failure."""


class Play:
    """A producer and a group member on a mock cluster of their own."""

    def __init__(self, brokers: int = 1) -> None:
        self.reasons: list[str] = []
        self.name = f"codes-{uuid.uuid4().hex[:12]}"
        self._kit = trail.make(self.name)
        self._ends = ExitStack()
        self.cluster = self._ends.enter_context(MockCluster(brokers))
        service = self._kit.service
        for topic in (
            *service.consumed_topics,
            *service.published_topics,
            service.lane_topic,
            service.dead_letter_topic,
        ):
            self.cluster.create_topic(topic, 2)
        settings = StageSettings.model_validate(
            {
                "kafka_bootstrap_servers": self.cluster.bootstrap,
                "database_url": "postgresql://nowhere",
                "partitions": 2,
                "transaction_timeout_ms": int(TRANSACTION_SECONDS * 1_000),
            }
        )
        self.producer = TransactionalProducer(settings, service, slot=0)
        self._ends.callback(self.producer.close)
        self.member = Consumer(consumer_configuration(settings, service, slot=0) | {"log_level": 0})
        self._ends.callback(self.member.close)
        self.member.subscribe([*service.consumed_topics, service.lane_topic], on_assign=_assign)
        until(lambda: self.member.poll(0.02) or self.member.assignment(), "it owns something")
        self.group_metadata = self.member.consumer_group_metadata()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def call(self, name: str) -> None:
        """Make one of `CALLS`; raises `TimeoutError` if it outlasts its budget."""
        row = OutboxRow(self._kit.told.topic, "key", "id-1", "Told", 3, "2026-01-01T00:00:00.000000Z", b"{}", None)
        source = Input(self._kit.asked.topic, 0)
        lanes, lane_topic = {0: Committed(7, "claim")}, self._kit.service.lane_topic
        calls: dict[str, Callable[[], object]] = {
            "renew": self.producer.renew,
            "begin": self.producer.begin,
            "produce": lambda: self.producer.produce([row]),
            "send_offsets": lambda: self.producer.send_offsets({source: 4}, lanes, self.group_metadata),
            "commit": self.producer.commit,
            "committed": lambda: committed_offsets(self.member, lane_topic, [source], [0, 1]),
        }
        done: Future[object] = Future()

        def run() -> None:
            try:
                done.set_result(calls[name]())
            except Exception as error:  # noqa: BLE001 (it is raised again below)
                done.set_exception(error)

        self._calling = threading.Thread(target=run, daemon=True)
        self._calling.start()
        done.result(TRANSACTION_SECONDS + SLACK_SECONDS)

    def until_returned(self) -> None:
        """Wait until the last call returns, even past its budget: what its client still logs would make the next one
        suspect.
        """
        self._calling.join(SECONDS_MAX)
        assert not self._calling.is_alive(), "the call never returns"

    def run(self, fault: Callable[[], None] = lambda: None, at: str = "") -> str:
        """Make all of `CALLS`, with the fault before call `at`; return the matrix's word for the result.

        Anything but going on must come from the call itself, or, for a suspicion, from the commit.
        """
        before, found = ("produce", ("send_offsets", "commit")) if at == ROWS else (at, (at,))
        for name in CALLS:
            if name == before:
                fault()
            try:
                self.call(name)
            except TimeoutError:
                word = "hang"
            except tuple(WORDS) as error:
                self.reasons.append(str(error))
                word = "suspect" if str(error).startswith("committed, but under suspicion") else WORDS[type(error)]
            else:
                continue
            return word if name in (("commit",) if word == "suspect" else found) else f"{word} from {name}"
        return "on"


def _assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """Begin at 0, so that the member asks for no offsets: a case counts the producer's answers."""
    consumer.assign([TopicPartition(p.topic, p.partition, 0) for p in partitions])


def play(case: Case) -> Seen:
    """Let a broker give an answer endlessly, then once; check the result and the recovery after each."""
    api, call = COLUMNS[case.column]
    code = getattr(KafkaError, case.answer)
    with Play() as stage:
        cluster = stage.cluster
        lasting = stage.run(lambda: cluster.answer_always(api, code), call)
        cluster.heal(api)
        if lasting == "hang":
            cluster.wake()
        after_lasting = stage.run()
        once = stage.run(lambda: cluster.answer(api, code), call)
        unused = cluster.unused(api)
        if once == "hang":
            cluster.wake()
        return Seen(once, lasting, stage.run(), after_lasting, unused, tuple(stage.reasons))


CASES = tuple(matrix())
TEST = "test_an_answer_is_taken_as_the_matrix_says"


def meant(word: str) -> set[str]:
    """Return what a word of the matrix allows. A slow call may make the producer suspect itself."""
    return {"on", "suspect"} if word == "on" else {word}


@pytest.fixture(scope="module", autouse=True)
def plays(request: pytest.FixtureRequest) -> Iterator[dict[str, "Future[Seen]"]]:
    """Start all selected cases of the matrix, by name; the first tests run meanwhile."""
    names = {item.name for item in request.session.items}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {str(case): pool.submit(play, case) for case in CASES if f"{TEST}[{case}]" in names}
        pool.shutdown(cancel_futures=True)


# ---- coordinators that are away or move, and brokers that are slow

TRANSACTION, GROUP = 2, 3
"""The brokers that are the coordinators; broker 1 leads all partitions."""


@pytest.fixture
def stage() -> Iterator[Play]:
    """A producer and a member on three brokers."""
    with Play(brokers=3) as made:
        made.cluster.coordinate("transaction", f"{made.name}-0", TRANSACTION)
        made.cluster.coordinate("group", made.name, GROUP)
        assert made.run() in meant("on")
        yield made
        assert made.run() in meant("on")


@pytest.mark.proof
@pytest.mark.parametrize(
    ("broker", "call", "word"),
    [
        (TRANSACTION, "renew", "wait"),
        (TRANSACTION, ROWS, "doubt"),
        (TRANSACTION, "send_offsets", "doubt"),
        (GROUP, "send_offsets", "hang"),
        (TRANSACTION, "commit", "doubt"),
    ],
)
def test_a_coordinator_that_is_away_during(stage: Play, broker: int, call: str, word: str) -> None:
    assert stage.run(lambda: stage.cluster.down(broker), call) == word
    stage.cluster.up(broker)
    stage.until_returned()


@pytest.mark.parametrize(
    ("broker", "call", "word"),
    [
        (TRANSACTION, "renew", "on"),
        (TRANSACTION, ROWS, "suspect"),
        (TRANSACTION, "send_offsets", "suspect"),
        # This producer may not have been connected to it yet; then nothing of ours was on its way when it went.
        (GROUP, "send_offsets", "on"),
        (TRANSACTION, "commit", "suspect"),
    ],
)
def test_a_coordinator_that_comes_back_during(stage: Play, broker: int, call: str, word: str) -> None:
    back = threading.Timer(0.3, stage.cluster.up, [broker])

    def blink() -> None:
        stage.cluster.down(broker)
        back.start()

    assert stage.run(blink, call) in meant(word)
    back.join()


@pytest.mark.proof
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("transaction", "renew"),
        ("transaction", ROWS),
        ("transaction", "send_offsets"),
        ("group", "send_offsets"),
        ("transaction", "commit"),
        ("group", "committed"),
    ],
)
def test_a_coordinator_that_moves_before(stage: Play, kind: str, call: str) -> None:
    key = {"transaction": f"{stage.name}-0", "group": stage.name}[kind]
    assert stage.run(lambda: stage.cluster.coordinate(kind, key, 1), call) in meant("on")


@pytest.mark.proof
@pytest.mark.parametrize("rtt_ms", [1_200, 2_000], ids=["slow", "too-slow"])
@pytest.mark.parametrize(
    ("api", "broker", "call"),
    [
        (Api.Produce, 1, ROWS),
        (Api.TxnOffsetCommit, GROUP, "send_offsets"),
        (Api.EndTxn, TRANSACTION, "commit"),
    ],
)
def test_a_broker_that_answers_late_makes_the_producer_suspect(
    stage: Play, api: Api, broker: int, call: str, rtt_ms: int
) -> None:
    """It takes more than half of the socket timeout, or all of it: then the client asks again."""
    good = KafkaError.NO_ERROR
    assert stage.run(lambda: stage.cluster.answer(api, good, broker=broker, rtt_ms=rtt_ms), call) == "suspect"


@pytest.mark.parametrize(("api", "broker"), [(Api.AddPartitionsToTxn, TRANSACTION), (Api.Produce, 1)])
def test_offsets_that_are_under_way_when_a_row_is_refused_do_not_hide_why(stage: Play, api: Api, broker: int) -> None:
    """The client then reports only that the state is wrong."""

    def refuse() -> None:
        stage.cluster.answer(api, KafkaError.INVALID_RECORD, broker=broker)
        stage.cluster.answer(Api.AddOffsetsToTxn, KafkaError.NO_ERROR, broker=TRANSACTION, rtt_ms=500)

    assert stage.run(refuse, ROWS) == "less"


@pytest.mark.proof
def test_an_end_that_a_leader_did_not_tell_is_waited_for(stage: Play) -> None:
    """The client returns -1001 and no error. As an end, that would hide an open transaction."""
    good = KafkaError.NO_ERROR
    rtt_ms = int(ENDED_SECONDS * 1_000) + 1_000
    assert stage.run(lambda: stage.cluster.answer(Api.ListOffsets, good, rtt_ms=rtt_ms), "renew") == "wait"


def test_offsets_are_asked_for_again_while_the_coordinator_of_their_group_starts(stage: Play) -> None:
    """A new broker gives this answer in its first seconds, and the client gives up at once."""
    cluster, starting = stage.cluster, KafkaError.NOT_COORDINATOR
    assert stage.run(lambda: cluster.answer(Api.OffsetFetch, starting, broker=GROUP), "renew") == "on"
    assert cluster.unused(Api.OffsetFetch, broker=GROUP) == 0


@pytest.mark.proof
def test_the_watchdog_ends_a_process_whose_call_does_not_return() -> None:
    process = multiprocessing.get_context("spawn").Process(target=hang, daemon=True)
    process.start()
    process.join(SECONDS_MAX)
    assert process.exitcode == EXIT_CODE


def hang() -> None:
    """Call something that does not return."""
    with Play() as stage:
        Watchdog().allow("cycle", 1.5 * TRANSACTION_SECONDS)  # as a worker does
        fault = stage.cluster.answer_always
        stage.run(lambda: fault(Api.FindCoordinator, KafkaError.COORDINATOR_NOT_AVAILABLE), "send_offsets")


# ---- the matrix


@pytest.mark.proof
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_answer_is_taken_as_the_matrix_says(case: Case, plays: dict[str, "Future[Seen]"]) -> None:
    seen = plays[str(case)].result()
    if not as_the_matrix_says(case, seen):
        # When the machine stood still for longer than the socket timeout, it was that what the producer answered to.
        seen = play(case)
    assert as_the_matrix_says(case, seen), seen


def as_the_matrix_says(case: Case, seen: Seen) -> bool:
    """Return whether the matrix was right, and a recovery made all well."""
    # A renewal asks with a new producer each time, and a single answer may be for one that is gone.
    lost = meant("on") if COLUMNS[case.column][1] == "renew" else set()
    return (
        seen.unused == 0
        and seen.once in meant(case.once) | lost
        and seen.lasting in meant(case.lasting)
        and {seen.after_once, seen.after_lasting} <= meant("on")
    )


def test_the_matrix_holds_every_code_that_the_producer_knows() -> None:
    assert {getattr(KafkaError, case.answer) for case in CASES} >= GENERATION | CONTENT | REFUSED
    assert {word for case in CASES for word in (case.once, case.lasting)} <= {*WORDS.values(), "on", "suspect", "hang"}
