"""A call that no caller could make is refused before anything runs; a handler makes one in its own transaction."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Event, Id, Retry, Service, Session, Tables
from shared.calls import Again, Answer, Call, Destination, Done, GivenUp, Never, Request, Verdict, call
from shared.calls.declaration import refuse_wrong
from shared.calls.outbox import CallingOutbox
from shared.calls.settling import ID_MAX, caused_id
from shared.errors import NotOwned
from shared.testing import Scene

BANK = Destination("bank", url=lambda _: "https://bank.example")


class Base(Tables, DeclarativeBase):
    """Metadata of these tests."""


class Bill(Base):
    __tablename__ = "bill"
    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]


class Billed(Event, key="bill", topic="bill.events"):
    bill: Id


class Paid(Event, key="bill", topic="pay.events"):
    bill: Id


class Pay(Call, key="bill"):
    destination = BANK
    bill: Id

    def request(self) -> Request:
        return Request("POST", "/payments", json={"bill": self.bill})

    def answered(self, answer: Answer, session: Session) -> Verdict:
        bill = session.lock(Bill, self.bill)
        assert bill is not None
        bill.state = "PAID"
        return Again("not yet") if answer.meaning == "again" else Done(Paid(bill=self.bill))

    def given_up(self, why: GivenUp, session: Session) -> None:
        session.lock(Bill, self.bill)
        call(session, Pay(bill=self.bill))


def changed(**attributes: Any) -> Any:
    make: Any = type(Pay)
    return make("Other", (Pay,), {"__module__": __name__, **attributes})


class Keyless(Call):
    destination = BANK
    bill: Id
    request, answered, given_up = Pay.request, Pay.answered, Pay.given_up


class Topical(Pay, topic="pay.calls"):
    pass


class Newer(Pay, version=40_000):
    pass


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ((Paid,), "is not a class of calls"),
        ((Keyless,), "has no key"),
        ((Topical,), "has no topic"),
        ((Newer,), "whole number from 1 to 32767"),
        ((changed(destination=None),), "has no destination"),
        ((changed(request=Call.request),), "has no `request`"),
        ((changed(answered=Call.answered),), "has no `answered`"),
        ((changed(given_up=Call.given_up),), "has no `given_up`"),
        ((changed(attempts=0),), "attempts is 0"),
        ((changed(within=timedelta(days=4_000)),), "up to ten years"),
        ((changed(within=60),), "is a timedelta"),
        ((Pay, Pay), "two calls are Pay.v1"),
        ((Pay, changed(destination=Destination("bank", url=lambda _: "https://b"))), "two destinations"),
    ],
)
def test_a_wrong_declaration_is_refused(calls: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        refuse_wrong(calls, ())


def test_a_call_is_not_published() -> None:
    with pytest.raises(TypeError, match="take it out of `publishes`"):
        refuse_wrong((Pay,), (Pay,))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Destination("a bank", url=lambda _: ""), "letters, digits"),
        (lambda: Destination("bank", url="https://bank"), "is a function of the settings"),  # type: ignore[arg-type]
        (lambda: Destination("bank", url=str, seconds=0), "seconds is 0"),
        (lambda: Destination("bank", url=str, concurrency=5_000), "concurrency is 5000"),
        (lambda: Destination("bank", url=str, concurrency=8.5), "concurrency is 8.5; it is a whole"),  # type: ignore[arg-type]
        (lambda: Destination("bank", url=str, pause_seconds_min=9, pause_seconds_max=1), "pause_seconds_max is 1"),
    ],
)
def test_a_wrong_destination_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        make()


service = Service("pay", publishes=(Paid,))


@service.on(Billed)
def ask(event: Billed, session: Session) -> None:
    """Pay a bill."""
    session.add(Bill(id=event.bill, state="ASKED"))
    call(session, Pay(bill=event.bill))


def test_a_scene_shows_the_calls_that_a_handler_makes() -> None:
    scene = Scene(service)
    assert scene.when(Billed(bill="b-1")) == [Pay(bill="b-1")]
    assert scene.row(Bill, "b-1").state == "ASKED"


def test_a_scene_tries_what_an_answer_does() -> None:
    scene = Scene(service, Bill(id="b-1", state="ASKED"))
    with pytest.raises(Retry, match="not yet"):
        scene.answered(Pay(bill="b-1"), Answer(503, {}, b""))
    assert scene.row(Bill, "b-1").state == "ASKED"
    assert scene.given_up(Pay(bill="b-1"), GivenUp("deadline", 3, True, "cut")) == [Pay(bill="b-1")]
    assert scene.answered(Pay(bill="b-1"), Answer(200, {}, b"")) == [Paid(bill="b-1")]
    assert scene.row(Bill, "b-1").state == "PAID"


def test_an_answer_publishes_only_for_what_it_holds() -> None:
    class Careless(Pay):
        def answered(self, answer: Answer, session: Session) -> Verdict:
            return Done(Paid(bill="another"))

    with pytest.raises(NotOwned):
        Scene(service).answered(Careless(bill="b-1"), Answer(200, {}, b""))


def test_a_call_needs_its_aggregate() -> None:
    other = Service("pay")

    @other.on(Billed)
    def ask(event: Billed, session: Session) -> None:
        call(session, Pay(bill="another"))

    with pytest.raises(NotOwned, match="Pay is published for 'another'"):
        Scene(other).when(Billed(bill="b-1"))


def test_a_call_that_the_service_does_not_declare_is_refused() -> None:
    with pytest.raises(TypeError, match="does not make the call Pay: add it to `calls` of its container"):
        CallingOutbox(service, 1_000, ()).collect(Session.__new__(Session), Pay(bill="b-1"), "id", None)


def test_an_event_is_published_and_not_called() -> None:
    with pytest.raises(TypeError, match=r"an event is published by session\.publish"):
        call(Session.__new__(Session), Paid(bill="b-1"))  # type: ignore[arg-type]


def test_ids_of_a_chain_of_calls_stay_short_and_the_same() -> None:
    call_id = "pay:1"
    for _ in range(50):
        following = caused_id("pay", call_id, "Pay", 0)
        assert following == caused_id("pay", call_id, "Pay", 0)
        assert following != caused_id("pay", call_id, "Pay", 1)
        call_id = following
    assert len(call_id) < ID_MAX + 50


@pytest.mark.parametrize(("verdict", "given"), [(Again, (None,)), (Again, ("full", "5")), (Never, (None,))])
def test_a_verdict_has_a_reason_that_can_be_kept(verdict: Any, given: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="it is a"):
        verdict(*given)
