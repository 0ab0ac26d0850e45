"""The verdicts on the members of a group, and on transactions that hold readers back."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState

from shared.errors import DatabaseWentBack, LanesDiffer
from shared.kafka.held_back import Held
from shared.kafka.open_transactions import Holder
from shared.operations.doctor import readers
from shared.operations.doctor.readers import members, verdict
from shared.protocol.ports import Input
from tests.faults import trail

SERVICE = trail.make("t").service
NOW = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)


def member(*lanes: int, instance: str | None = "t-0-abcdef12") -> Any:
    owned = [SimpleNamespace(topic="t.outbox", partition=lane) for lane in lanes]
    return SimpleNamespace(
        group_instance_id=instance, client_id="t", host="/10.0.0.1", assignment=SimpleNamespace(topic_partitions=owned)
    )


@pytest.mark.parametrize(
    ("there", "state", "verdicts"),
    [
        ([member(0, 1)], ConsumerGroupState.STABLE, ["ok"]),
        ([member(0), member(1)], ConsumerGroupState.STABLE, ["ok"]),
        ([member(0)], ConsumerGroupState.STABLE, ["warning"]),
        ([], ConsumerGroupState.EMPTY, ["warning"]),
        ([member()], ConsumerGroupState.PREPARING_REBALANCING, ["warning"]),
        ([member(0, 1), member(instance="other-1")], ConsumerGroupState.STABLE, ["warning"]),
        ([member(0, 1), member(instance=None)], ConsumerGroupState.STABLE, ["warning"]),
    ],
)
def test_members(there: list[Any], state: ConsumerGroupState, verdicts: list[str]) -> None:
    group: Any = SimpleNamespace(members=there, state=state)
    assert [one.verdict for one in members(SERVICE, group, 2)] == verdicts


def test_one_member_is_no_many() -> None:
    group: Any = SimpleNamespace(members=[member(0, 1)], state=ConsumerGroupState.STABLE)
    assert [one.seen for one in members(SERVICE, group, 2)] == ["1 member has all 2 lanes"]


def held(**holder: Any) -> Held:
    made = Held(Input("shop.events", 3), 17)
    made.holder = Holder(4711, 2, "mallory", **holder)
    return made


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (held(state="Ongoing", began=NOW - timedelta(seconds=4), timeout_seconds=60), "warning"),
        (held(state="Ongoing", began=NOW - timedelta(seconds=20), timeout_seconds=60), "fault"),
        (held(state="Ongoing", began=NOW - timedelta(seconds=90), timeout_seconds=60), "fault"),
        (held(state="CompleteAbort"), "fault"),
        (held(), "warning"),
    ],
)
def test_a_transaction_that_stays_open(one: Held, expected: str) -> None:
    found = verdict(one, NOW)
    assert found.verdict == expected
    assert "mallory" in found.seen
    assert found.see == "docs/operating.md, 'A transaction that does not end'"


def test_what_a_worker_would_stop_for(monkeypatch: pytest.MonkeyPatch) -> None:
    case: Any = SimpleNamespace(engine=None, settings=None, service=SERVICE, command=lambda words: f"`{words}`")
    monkeypatch.setattr("shared.operations.diagnosis.diagnose", lambda *_: [DatabaseWentBack("lane 0 went back")])
    assert [(f.verdict, f.seen) for f in readers.positions(case)] == [("fault", "DatabaseWentBack: lane 0 went back")]
    monkeypatch.setattr("shared.operations.diagnosis.diagnose", lambda *_: [])
    assert [f.verdict for f in readers.positions(case)] == ["ok"]


@pytest.mark.parametrize(
    ("there", "words"), [(6, "set PARTITIONS to 6, then run `lanes resize`"), (3, "`positions show` shows all of it")]
)
def test_a_topic_of_lanes_that_has_grown_cannot_be_made_smaller(
    monkeypatch: pytest.MonkeyPatch, there: int, words: str
) -> None:
    case: Any = SimpleNamespace(
        engine=None,
        settings=SimpleNamespace(partitions=4),
        service=SERVICE,
        command=lambda words: f"`{words}`",
        described={SERVICE.lane_topic: SimpleNamespace(partitions=[None] * there)},
    )
    monkeypatch.setattr("shared.operations.diagnosis.diagnose", lambda *_: [LanesDiffer("keys have moved")])

    (found,) = readers.positions(case)

    assert words in str(found.mend)
