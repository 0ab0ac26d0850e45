"""An answer takes effect once, with its events and the end of its call; one that cannot be handled is kept."""

from collections.abc import Callable
from typing import Any

import pytest

from shared import Retry, Session
from shared.calls import Answer, GivenUp, call, queue
from shared.calls import settling as settling_module
from shared.calls.queue import Budget, Due, Overtaken
from shared.calls.settling import NoAnswer, Outcome, Settling
from shared.postgres.ahead import Statement
from shared.postgres.outbox import Outbox
from shared.testing import Trial
from tests.integration.calls.paying import CONTEXT, Base, Bill, Paid, Pay, PayOnce, Stage, Unpaid, service

YES = Answer(200, {}, b'{"receipt": "r-1"}')


@pytest.fixture
def settling(paying: Stage) -> Settling:
    return Settling(paying.engine, paying.outbox, "pay", paying.outbox.calls)


def taken(paying: Stage) -> Due:
    paying.connection.execute("UPDATE exactly_once_call SET due_at = clock_timestamp()")
    with paying.engine.begin() as connection:
        (due,) = queue.take(connection, "bank", most=1, budget=Budget(9, 0.0), seconds=60.0, caller="test:1").calls
    return due


def state(paying: Stage) -> tuple[Any, ...]:
    (row,) = paying.rows("SELECT state, changes FROM bill")
    return row


def left(paying: Stage) -> tuple[Any, ...]:
    (row,) = paying.rows("SELECT attempts, maybe_done, stuck, failure, claimed_by FROM exactly_once_call")
    return row


def test_an_answer_has_its_effect_and_its_event_once(paying: Stage, settling: Settling) -> None:
    paying.due("b-1")
    due = taken(paying)
    assert settling.answered(due, YES) == Outcome("done")
    with pytest.raises(Overtaken):
        settling.answered(due, YES)

    assert state(paying) == ("PAID", 1)
    assert paying.events() == [{"type": "Paid", "bill": "b-1", "part": 0, "receipt": "r-1"}]
    assert paying.rows("SELECT event_id, traceparent FROM exactly_once_outbox") == [(f"{due.call_id}.Paid.0", CONTEXT)]
    assert paying.rows("SELECT FROM exactly_once_call") == []


def test_an_answer_that_comes_after_the_lease_changes_nothing(paying: Stage, settling: Settling) -> None:
    paying.due("b-1")
    late, due = taken(paying), taken(paying)
    with pytest.raises(Overtaken):
        settling.answered(late, YES)
    with pytest.raises(Overtaken):
        settling.failed(late, NoAnswer("cut", sent=True))
    assert (state(paying), paying.events(), left(paying)[:2]) == (("ASKED", 0), [], (2, True))
    assert settling.answered(due, YES) == Outcome("done")


def test_a_lease_that_is_lost_while_the_service_decides_undoes_the_decision(
    paying: Stage, settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    paying.due("b-1")
    due = taken(paying)
    insertion = Outbox.insertion

    def overtaken_meanwhile(*given: Any) -> list[Statement]:
        paying.connection.execute("UPDATE exactly_once_call SET lease = lease + 1")
        return insertion(*given)

    monkeypatch.setattr(Outbox, "insertion", overtaken_meanwhile)
    with pytest.raises(Overtaken):
        settling.answered(due, YES)
    assert (state(paying), paying.events()) == (("ASKED", 0), [])


def take_all(paying: Stage) -> list[Due]:
    with paying.engine.begin() as connection:
        return queue.take(connection, "bank", most=9, budget=Budget(9, 0.0), seconds=60.0, caller="test:1").calls


def test_answers_together_have_their_effects_in_one_transaction(paying: Stage, settling: Settling) -> None:
    paying.due("b-1", "b-2", parts=(1, 2))
    paying.due("b-3")
    dues = take_all(paying)
    assert [due.key for due in dues] == ["b-1", "b-2", "b-3"]
    outcomes = settling.answered_together([(due, YES) for due in dues])

    # What is due behind one of them is told to all: a look too many costs little.
    assert outcomes == [Outcome("done", due=frozenset({"bank"}))] * 3
    assert sorted((event["bill"], event["part"]) for event in paying.events()) == [("b-1", 1), ("b-2", 1), ("b-3", 0)]
    assert {row for (row,) in paying.rows("SELECT state FROM bill")} == {"PAID"}
    assert paying.rows("SELECT count(DISTINCT xmin::text) FROM exactly_once_outbox") == [(1,)]
    assert [due.key for due in take_all(paying)] == ["b-1", "b-2"]


def test_what_takes_long_is_not_joined_by_more(
    paying: Stage, settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling_module, "TOGETHER_SECONDS", 0.0)
    paying.due("b-1", "b-2", "b-3")
    dues = take_all(paying)
    assert settling.answered_together([(due, YES) for due in dues]) == [Outcome("done")]
    assert [event["bill"] for event in paying.events()] == ["b-1"]
    assert settling.answered(dues[1], YES) == Outcome("done")


def test_one_that_fails_takes_no_other_with_it(paying: Stage, settling: Settling) -> None:
    paying.due("b-1", "b-2", "b-3")
    dues = take_all(paying)
    paying.connection.execute("UPDATE exactly_once_call SET lease = lease + 1 WHERE key = 'b-2'")
    assert settling.answered_together([(due, YES) for due in dues]) is None
    no_json = Answer(200, {}, b"no JSON")
    assert settling.answered_together([(dues[0], YES), (dues[2], no_json)]) is None

    assert paying.events() == []
    assert paying.rows("SELECT DISTINCT state, changes FROM bill") == [("ASKED", 0)]
    assert settling.answered(dues[0], YES) == Outcome("done")
    with pytest.raises(Overtaken):
        settling.answered(dues[1], YES)
    assert settling.answered(dues[2], no_json).ended == "stuck"
    assert [event["bill"] for event in paying.events()] == ["b-1"]


def test_answers_together_wait_for_no_lock_for_long(paying: Stage, settling: Settling) -> None:
    """They lock in no order: a worker that locks two of their rows must not be ended for it as part of a deadlock."""
    paying.due("b-1", "b-2")
    dues = take_all(paying)
    with paying.engine.connect() as other, other.begin():
        other.exec_driver_sql("SELECT FROM bill WHERE id = 'b-2' FOR UPDATE")
        assert settling.answered_together([(due, YES) for due in dues]) is None
        assert other.exec_driver_sql("SELECT state FROM bill WHERE id = 'b-1' FOR UPDATE").scalar_one() == "ASKED"
    assert settling.answered_together([(due, YES) for due in dues]) == [Outcome("done")] * 2


def test_a_refusal_is_final(paying: Stage, settling: Settling) -> None:
    paying.due("b-1")
    assert settling.answered(taken(paying), Answer(302, {}, b"")) == Outcome("never", "refused")
    assert state(paying) == ("REFUSED", 1)
    assert [event["type"] for event in paying.events()] == ["Unpaid"]


def test_what_is_asked_again_changes_nothing(paying: Stage, settling: Settling) -> None:
    paying.due("b-1")
    assert settling.answered(taken(paying), Answer(503, {"retry-after": "1"}, b"")).ended == "again"
    assert (state(paying), paying.events()) == (("ASKED", 0), [])
    assert left(paying) == (1, True, False, "the bank says 503", None)


@pytest.mark.parametrize(("sent", "maybe"), [(False, False), (True, True)])
def test_after_its_attempts_a_call_is_given_up(paying: Stage, settling: Settling, sent: bool, maybe: bool) -> None:
    paying.due("b-1", kind=PayOnce)
    assert settling.failed(taken(paying), NoAnswer("no way", sent=False)) == Outcome("again", "no way")
    assert left(paying) == (1, False, False, "no way", None)
    assert settling.failed(taken(paying), NoAnswer("cut", sent=sent)) == Outcome("given_up", "attempts: cut")
    assert state(paying) == ("GIVEN_UP", 1)
    assert paying.events() == [{"type": "Unpaid", "bill": "b-1", "part": 0, "why": "attempts", "maybe_done": maybe}]


def test_an_attempt_of_which_nobody_knows_may_have_reached_it(paying: Stage, settling: Settling) -> None:
    paying.due("b-1", kind=PayOnce)
    taken(paying)  # by a caller that died
    settling.failed(taken(paying), NoAnswer("no way", sent=False))
    assert [event["maybe_done"] for event in paying.events()] == [True]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(200, {}, b"<html>"), "AnswerUnreadable: the answer, 200, is not JSON"),
        (Answer(200, {}, b"{}" * 9, cut=True), "AnswerUnreadable: the answer, 200, is longer than the 18 bytes"),
        (Answer(200, {}, b"[" * 100_000), "AnswerUnreadable"),
        (Answer(200, {}, b"{}"), "KeyError"),
        (Answer(200, {}, b'{"receipt": 7}'), "ValueError: Paid is not what its own type declares"),
        (Answer(200, {}, b'{"receipt": "\\u0000"}'), ""),
    ],
)
def test_an_answer_that_the_service_cannot_handle_is_kept_for_a_better_version(
    paying: Stage, settling: Settling, answer: Answer, said: str
) -> None:
    paying.due("b-1", kind=PayOnce)
    for _ in range(4):  # more than its attempts
        outcome = settling.answered(taken(paying), answer)
        if not said:
            break
        assert outcome.ended == "stuck"
        assert outcome.detail.startswith(said)
        assert left(paying)[1:3] == (True, True)
        assert (state(paying), paying.events()) == (("ASKED", 0), [])
    if said:
        assert settling.failed(taken(paying), NoAnswer("cut", sent=True)).ended == "again"
        assert settling.answered(taken(paying), YES) == Outcome("done")
    assert state(paying) == ("PAID", 1)


@pytest.mark.parametrize("returned", [None, True, [YES], Bill])
def test_what_is_no_verdict_is_refused(
    paying: Stage, settling: Settling, returned: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pay, "answered", lambda *_: returned)
    paying.due("b-1")
    outcome = settling.answered(taken(paying), YES)
    assert outcome.ended == "stuck"
    assert "it returns Done, Again or Never" in outcome.detail


def test_events_of_an_answer_need_their_aggregate(
    paying: Stage, settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: Callable[..., Any] = Pay.answered

    def forgetful(self: Pay, answer: Answer, session: Any) -> Any:
        verdict = answered(self, answer, session)
        session._held.keys.clear()
        session._held.rows.clear()
        return verdict

    monkeypatch.setattr(Pay, "answered", forgetful)
    paying.due("b-1")
    assert settling.answered(taken(paying), YES).detail.startswith("NotOwned")


def test_a_call_of_another_version_waits(paying: Stage, settling: Settling) -> None:
    paying.due("b-1")
    paying.connection.execute("UPDATE exactly_once_call SET call_version = 2, give_up_at = clock_timestamp()")
    due = taken(paying)
    assert due.expired
    assert settling.give_up(due, "deadline").detail == "LookupError: this version of the service knows no call Pay.v2"
    due = taken(paying)
    assert not due.expired
    with pytest.raises(LookupError, match="knows no call Pay") as unknown:
        settling.request_of(due)
    assert settling.stuck(due, unknown.value, maybe_done=due.maybe_done).ended == "stuck"
    assert left(paying)[:3] == (0, False, True)


def test_what_gives_up_may_make_another_call(
    paying: Stage, settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up: Callable[..., Any] = PayOnce.given_up

    def undo(self: Pay, why: GivenUp, session: Session) -> Any:
        published = given_up(self, why, session)
        call(session, Pay(bill=self.bill, part=9))
        return published

    monkeypatch.setattr(PayOnce, "given_up", undo)
    paying.due("b-1", kind=PayOnce)
    first = taken(paying)
    assert settling.give_up(first, "deadline").ended == "given_up"
    following = taken(paying)
    assert (following.call_type, following.key, following.attempts) == ("Pay", "b-1", 1)
    assert following.call_id == f"{first.call_id}.Pay.0"
    assert following.traceparent == CONTEXT
    assert settling.answered(following, YES) == Outcome("done")
    assert [(event["type"], event["part"]) for event in paying.events()] == [("Unpaid", 0), ("Paid", 9)]


def test_a_trial_tries_what_an_answer_does_on_a_real_database(paying: Stage) -> None:
    with paying.engine.connect() as connection:
        transaction = connection.begin()
        trial = Trial(connection, service, Base)
        trial.given(Bill(id="b-1", state="ASKED", changes=0))
        with pytest.raises(Retry):
            trial.answered(Pay(bill="b-1"), Answer(503, {}, b""))
        assert trial.answered(Pay(bill="b-1"), YES) == [Paid(bill="b-1", part=0, receipt="r-1")]
        assert trial.row(Bill, "b-1").state == "PAID"
        given_up = trial.given_up(Pay(bill="b-1"), GivenUp("operator", 1, True, ""))
        assert given_up == [Unpaid(bill="b-1", part=0, why="operator", maybe_done=True)]
        transaction.rollback()
