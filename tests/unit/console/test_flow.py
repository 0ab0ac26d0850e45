"""What is known of a service, put together from Kafka and PostgreSQL."""

import pytest

from shared.console import flow
from shared.console.sight import Slots, Tables, Topics
from shared.operations.group import Member, Span
from shared.operations.maintenance import Holder
from shared.postgres.backlog import Lane
from shared.protocol.ports import Input, Position
from tests.unit.console.desk import Desk

SOURCE = Input("shop.events", 0)


def store(desk: Desk, **changed: object) -> flow.Flow:
    desk.sees("store", **changed)
    return flow.of(desk.sight("store"))


def tables(next_offset: int = 5, *holders: Holder, lanes: tuple[Lane, ...] = (), **_: object) -> Tables:
    return Tables({SOURCE: Position(next_offset, 0)}, list(lanes), list(holders))


def topics(high: int, *members: Member) -> Topics:
    return Topics({SOURCE: Span(2, high, high), Input("store.events", 0): Span(0, 7, 7)}, list(members))


@pytest.mark.parametrize(("next_offset", "high", "lag"), [(5, 9, 4), (9, 9, 0), (12, 9, 0)])
def test_lag_is_what_lies_between_end_and_next_offset(next_offset: int, high: int, lag: int) -> None:
    found = store(Desk(), topics=topics(high), tables=tables(next_offset))

    assert found.lag == lag
    assert found.consumed[0].parts == [flow.Part(0, lag, None)]


def test_an_input_that_nobody_has_handled_lags_from_its_first_record() -> None:
    found = store(Desk(), topics=topics(9), tables=Tables({}, [], []))

    assert found.lag == 7


def test_a_topic_that_is_not_there_has_no_lag() -> None:
    found = store(Desk(), topics=Topics({}, []), tables=tables())

    assert (found.lag, found.consumed[0].lag, found.consumed[0].parts) == (None, None, [])


def test_of_many_partitions_those_that_lag_most_are_shown() -> None:
    inputs = [Input("shop.events", n) for n in range(200)]
    spans = {source: Span(0, source.partition, source.partition) for source in inputs}
    found = store(
        Desk(),
        topics=Topics(spans, []),
        tables=Tables({source: Position(0, 0) for source in inputs}, [], []),
    ).consumed[0]

    assert [part.number for part in found.parts] == list(range(184, 200))
    assert (found.left_out, found.lag) == (184, sum(range(200)))


MEMBER = Member("store-1-0123abcd", "10.0.0.2", [SOURCE], [0])


@pytest.mark.parametrize(
    ("holders", "members", "state", "words", "service"),
    [
        ([1], [MEMBER], "ok", "works", ("ok", "1 worker")),
        ([1], [MEMBER._replace(inputs=[], lanes=[])], "ok", "waits for a share", ("ok", "1 worker")),
        ([1], [], "warn", "joins the group, or recovers", ("warn", "recovers")),
        ([], [MEMBER], "bad", "gone; Kafka still counts it in", ("bad", "no worker")),
    ],
)
def test_a_worker_is_a_slot_and_a_member(
    holders: list[int], members: list[Member], state: str, words: str, service: tuple[str, str]
) -> None:
    held = [Holder(slot, 1, "10.0.0.2", 3.0) for slot in holders]
    found = store(Desk(), topics=topics(9, *members), tables=tables(9, *held))

    assert [(worker.slot, worker.state, worker.words) for worker in found.workers] == [("1", state, words)]
    assert (found.state, found.words) == service


def test_a_stranger_in_the_group_is_shown_as_one() -> None:
    stranger = Member("console-consumer-17", "10.0.0.9", [SOURCE], [])
    found = store(Desk(), topics=topics(9, stranger), tables=tables(9))

    assert found.workers[0].words == "a member that is no worker: console-consumer-17"


def test_old_rows_of_the_outbox_are_seen() -> None:
    lanes = (Lane(0, 3, 12, 31.0), Lane(1, None, None, 0.0), Lane(2, 14, 14, 2.0))
    found = store(Desk(), topics=topics(9, MEMBER), tables=tables(9, Holder(1, 1, "a", 3.0), lanes=lanes))

    assert (found.rows_at_most, found.oldest_seconds) == (12, 31.0)
    assert (found.state, found.words) == ("warn", "1 worker, events wait")
    assert [(lane.owner, lane.rows_at_most, lane.oldest_seconds) for lane in found.lanes] == [
        ("1", 10, 31.0),
        (None, 0, None),
        (None, 1, 2.0),
    ]


def test_a_server_that_does_not_answer_is_the_state() -> None:
    desk = Desk()
    desk.sees("store")
    desk.sight("store").tables.failure = "PostgreSQL: connection refused"

    assert flow.of(desk.sight("store")).words == "PostgreSQL does not answer"


def test_a_slot_that_is_lost_and_taken_again_is_told() -> None:
    slots = Slots()
    first, second = Holder(0, 11, "a", 5.0), Holder(1, 12, "a", 5.0)
    slots.note([first, second])
    assert not slots.changes, "who was there before this console is no news"

    slots.note([second])
    slots.note([second, Holder(0, 13, "a", 0.1)])
    slots.note([Holder(1, 14, "a", 0.1), Holder(0, 13, "a", 0.2)])

    told = [(change.slot, change.what) for change in slots.changes]
    assert told[0] == (0, "lost: the worker has ended, or its session has")
    assert told[1][1].startswith("taken, 0.")
    assert told[2] == (1, "taken by the next session")
    assert slots.lost == {}


def test_numbers_as_they_are_shown() -> None:
    assert [flow.number(value) for value in (None, 0, 1234567)] == ["unknown", "0", "1,234,567"]
    assert [flow.rate(value) for value in (None, 0.0, 1234.5)] == ["unknown", "0.0/s", "1,234/s"]
    assert [flow.span(value) for value in (None, 0.25)] == ["unknown", "0.2 s"]
