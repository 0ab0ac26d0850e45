"""Calls are taken with a lease, in the order of their keys, within the budget; only who has the lease finishes one."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.calls import queue
from shared.calls.queue import Budget, Due, Overtaken
from shared.testing import SECONDS_MAX, until
from tests.integration.calls.paying import PaySoon, Stage

BUDGET = Budget(100, 0.0)
WAITS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def take(paying: Stage, most: int = 100, *, budget: Budget = BUDGET, expired: bool = False) -> list[Due]:
    with paying.engine.begin() as connection:
        budgeted = {"most": most, "budget": budget, "expired": expired}
        return queue.take(connection, "bank", **budgeted, seconds=60.0, caller="test:1").calls  # type: ignore[arg-type]


def again(paying: Stage, due: Due, seconds: float = 0.0) -> None:
    with paying.engine.begin() as connection:
        queue.again(connection, due, seconds=seconds, failure="no", maybe_done=True)


def finish(paying: Stage, due: Due) -> None:
    with paying.engine.begin() as connection:
        queue.finish(connection, [due])


def let_leases_run_out(paying: Stage) -> None:
    paying.connection.execute("UPDATE exactly_once_call SET due_at = clock_timestamp() WHERE claimed_by IS NOT NULL")


def test_a_call_is_taken_once_and_again_when_its_lease_has_run_out(paying: Stage) -> None:
    paying.due("b-1")
    (first,) = take(paying)
    assert (first.key, first.attempts, first.lease, first.maybe_done, first.expired) == ("b-1", 1, 1, False, False)
    assert take(paying) == []

    let_leases_run_out(paying)
    (second,) = take(paying)
    assert (second.attempts, second.lease, second.maybe_done) == (2, 2, True)

    with pytest.raises(Overtaken):
        finish(paying, first)
    with pytest.raises(Overtaken):
        again(paying, first)
    with paying.engine.begin() as connection:
        queue.hold(connection, [second])
        with pytest.raises(Overtaken):
            queue.hold(connection, [first, second])
    finish(paying, second)
    assert paying.rows("SELECT FROM exactly_once_call") == []


def test_callers_that_look_at_once_keep_the_budget_together(paying: Stage) -> None:
    paying.due(*(f"b-{n}" for n in range(20)))

    def look() -> int:
        return len(take(paying, budget=Budget(9, 0.0)))

    with paying.engine.connect() as other, other.begin(), ThreadPoolExecutor(2) as threads:
        other.exec_driver_sql("SELECT FROM exactly_once_destination FOR UPDATE")
        looks = [threads.submit(look) for _ in range(2)]
        until(lambda: len(paying.rows(WAITS)) == 2, "both wait for their turn")
        other.rollback()
        assert sorted(one.result(SECONDS_MAX) for one in looks) == [0, 9]


def test_what_is_put_off_is_told(paying: Stage) -> None:
    paying.due("b-1", parts=(1, 2, 3))
    with paying.engine.begin() as connection:
        taken = queue.take(connection, "bank", most=2, budget=BUDGET, seconds=60.0, caller="test:1")
    assert (len(taken.calls), taken.put_off, taken.more) == (1, 1, True)


def test_calls_of_one_key_follow_each_other_and_others_go_on(paying: Stage) -> None:
    paying.due("b-1", "b-2", parts=(1, 2, 3))
    first = take(paying)
    assert [(due.key, due.id) for due in first] == [("b-1", 1), ("b-2", 4)]
    assert take(paying) == []

    again(paying, first[0])
    finish(paying, first[1])
    assert [due.id for due in take(paying)] == [1, 5]

    paying.due("b-2", parts=(4,))
    let_leases_run_out(paying)
    one, five = take(paying)
    finish(paying, one)
    finish(paying, five)
    assert [due.id for due in take(paying)] == [2, 6]


def test_a_call_that_is_put_off_while_the_one_before_it_ends_follows_it(paying: Stage) -> None:
    paying.due("b-1", parts=(1, 2))
    (first,) = take(paying)
    # Another caller made its place in the order sure a moment ago, and did not see the end of the first.
    paying.connection.execute("UPDATE exactly_once_call SET due_at = clock_timestamp() WHERE claimed_by IS NULL")
    with ThreadPoolExecutor(1) as ending, paying.engine.begin() as other:
        assert queue.take(other, "bank", most=9, budget=BUDGET, seconds=60.0, caller="test:2").calls == []
        ended = ending.submit(finish, paying, first)
        until(lambda: ended.done() or paying.rows(WAITS), "the first one waits for the second, or is finished")
        other.commit()
        ended.result(SECONDS_MAX)
    assert [due.id for due in take(paying)] == [2]


def test_callers_share_the_concurrency_of_a_destination(paying: Stage) -> None:
    paying.due(*(f"b-{n}" for n in range(5)))
    three = take(paying, budget=Budget(3, 0.0))
    assert len(three) == 3
    assert take(paying, budget=Budget(3, 0.0)) == []
    finish(paying, three[0])
    again(paying, three[1], seconds=60.0)
    assert len(take(paying, budget=Budget(3, 0.0))) == 2


def test_callers_share_the_rate_of_a_destination(paying: Stage) -> None:
    paying.due(*(f"b-{n}" for n in range(30)))
    assert len(take(paying, budget=Budget(1_000, 10.0))) == 10
    paying.connection.execute(
        "UPDATE exactly_once_destination SET rate_at = clock_timestamp() + make_interval(secs => 0.75)"
    )
    assert 2 <= len(take(paying, budget=Budget(1_000, 10.0))) < 10

    paying.connection.execute("UPDATE exactly_once_destination SET rate_at = clock_timestamp()")
    assert len(take(paying, budget=Budget(1_000, 0.1))) == 1
    assert take(paying, budget=Budget(1_000, 0.1)) == []


def test_at_its_deadline_a_call_is_taken_to_be_given_up(paying: Stage) -> None:
    paying.due("b-1")
    paying.due("b-2", kind=PaySoon)
    taken = take(paying)
    for due in taken:
        again(paying, due, seconds=3_600.0)
    paying.connection.execute("SELECT pg_sleep(0.4)")

    (due,) = take(paying, expired=True)
    assert (due.key, due.expired, due.attempts, due.failure) == ("b-2", True, 1, "no")


def test_while_a_destination_rests_what_is_to_be_asked_again_is_left_alone(paying: Stage) -> None:
    paying.due("b-2", kind=PaySoon)
    (due,) = take(paying)
    with paying.engine.begin() as connection:
        queue.again(connection, due, seconds=0.0, failure="a bug", maybe_done=True, stuck=True)
    paying.connection.execute("SELECT pg_sleep(0.4)")
    assert take(paying, expired=True) == []


def test_a_clock_that_was_set_back_does_not_stop_the_calls(paying: Stage) -> None:
    paying.due("b-1", "b-2")
    paying.connection.execute("UPDATE exactly_once_destination SET rate_at = clock_timestamp() + interval '1 hour'")
    assert len(take(paying, budget=Budget(1_000, 10.0))) == 2


def test_a_call_at_which_the_service_fails_has_no_deadline(paying: Stage) -> None:
    paying.due("b-2", kind=PaySoon)
    (due,) = take(paying)
    paying.connection.execute("SELECT pg_sleep(0.4)")
    with paying.engine.begin() as connection:
        queue.again(connection, due, seconds=0.0, failure="a bug", maybe_done=True, stuck=True)
    (due,) = take(paying)
    assert (due.stuck, due.expired) == (True, False)


def test_what_waits_is_counted(paying: Stage) -> None:
    paying.due("b-1", "b-2")
    with paying.engine.begin() as connection:
        (found,) = queue.waiting(connection)
    assert (found.destination, found.calls, found.stuck) == ("bank", 2, 0)
    assert found.oldest_seconds > 0
