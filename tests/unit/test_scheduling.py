"""What may be scheduled: a moment, a name, and what a scene shows of it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Event, Service, Session, Tables
from shared.errors import NotOwned, Reject, SessionMisused
from shared.scheduling import NAME_BYTES_MAX, YEARS_MAX, Change, Moment, moment
from shared.testing import MemorySession, Scene

MINUTES = timedelta(minutes=15)


class Base(Tables, DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "scheduling_order"

    id: Mapped[str] = mapped_column(primary_key=True)
    waited: Mapped[int] = mapped_column(default=0)


class Ask(Event, topic="asked", key="id"):
    id: str
    what: str = "schedule"
    text: str = ""


class AskMany(Event, topic="asked", key="id"):
    id: str
    cause: str = "given"


class Overdue(Event, topic="deadlines", key="id"):
    id: str
    text: str = ""


SERVICE = Service("shop", publishes=(Overdue,))


@SERVICE.on(Ask)
def ask(event: Ask, session: Session, order: Order) -> None:
    match event.what:
        case "schedule":
            session.schedule(Overdue(id=order.id, text=event.text), after=MINUTES, name=f"overdue:{order.id}")
        case "cancel":
            session.cancel(f"overdue:{order.id}")
        case "ask":
            order.waited = int(bool(session.cancel(f"overdue:{order.id}")))
        case "twice":
            session.cancel(f"overdue:{order.id}")
            order.waited = int(bool(session.schedule(Overdue(id=order.id), after=MINUTES, name=f"overdue:{order.id}")))
            order.waited += int(bool(session.cancel(f"overdue:{order.id}")))
        case "another":
            session.schedule(Overdue(id="another"), after=MINUTES, name="another")
        case "cause":
            session.schedule(Overdue(id=order.id), after=MINUTES, name="a", cause=event)
        case _:
            pass


@SERVICE.on_batch(AskMany)
def ask_many(events: Sequence[AskMany], session: Session) -> None:
    session.lock_all(Order, [event.id for event in events])
    for event in events:
        cause: Any = {"given": event, "none": None, "copy": AskMany(id=event.id)}[event.cause]
        session.schedule(Overdue(id=event.id), after=MINUTES, name=f"overdue:{event.id}", cause=cause)


@pytest.fixture
def scene() -> Scene:
    return Scene(SERVICE, Order(id="o-1"), Order(id="o-2"))


def test_what_a_handler_schedules_waits_and_is_not_published(scene: Scene) -> None:
    assert scene.when(Ask(id="o-1")) == []
    assert scene.scheduled == {"overdue:o-1": (Overdue(id="o-1"), MINUTES, None)}


def test_the_second_of_a_name_replaces_the_first(scene: Scene) -> None:
    scene.when(Ask(id="o-1"), Ask(id="o-1", text="second"))
    assert [waiting.event for waiting in scene.scheduled.values()] == [Overdue(id="o-1", text="second")]


def test_what_is_cancelled_waits_no_more_and_who_asks_is_told(scene: Scene) -> None:
    scene.when(Ask(id="o-1"), Ask(id="o-2"), Ask(id="o-1", what="cancel"))
    assert list(scene.scheduled) == ["overdue:o-2"]
    scene.when(Ask(id="o-1", what="ask"), Ask(id="o-2", what="ask"))
    assert (scene.row(Order, "o-1").waited, scene.row(Order, "o-2").waited) == (0, 1)
    assert scene.scheduled == {}


def test_changes_of_one_name_in_one_transaction_follow_each_other(scene: Scene) -> None:
    scene.when(Ask(id="o-1"), Ask(id="o-1", what="twice"))
    assert scene.row(Order, "o-1").waited == 1, "nothing waited after the first cancel, one after the schedule"
    assert scene.scheduled == {}


def test_a_batch_handler_schedules_with_the_cause(scene: Scene) -> None:
    scene.when(AskMany(id="o-1"), AskMany(id="o-2"))
    assert sorted(scene.scheduled) == ["overdue:o-1", "overdue:o-2"]
    for cause in ("none", "copy"):
        with pytest.raises(SessionMisused, match="without its cause: give `cause=`"):
            scene.when(AskMany(id="o-1", cause=cause))


def test_only_a_batch_handler_gives_a_cause(scene: Scene) -> None:
    with pytest.raises(SessionMisused, match="only a batch handler"):
        scene.when(Ask(id="o-1", what="cause"))


def test_an_event_is_scheduled_for_an_aggregate_that_is_held(scene: Scene) -> None:
    with pytest.raises(NotOwned, match="'another'"):
        scene.when(Ask(id="o-1", what="another"))


def test_an_event_too_large_for_kafka_is_refused_when_it_is_scheduled(scene: Scene) -> None:
    with pytest.raises(Reject, match="EVENT_BYTES_MAX"):
        scene.when(Ask(id="o-1", text="x" * 1_000_000))
    assert scene.scheduled == {}


def test_a_session_of_no_handler_schedules_nothing() -> None:
    session = MemorySession()
    with pytest.raises(SessionMisused, match="in a handler or in a request"):
        session.schedule(Overdue(id="o-1"), after=MINUTES, name="a")
    with pytest.raises(SessionMisused, match="in a handler or in a request"):
        session.cancel("a")


def test_a_question_after_the_transaction_is_refused() -> None:
    with pytest.raises(SessionMisused, match="asked after its transaction"):
        bool(Change("a", None, lambda: None))


# ---- moments


@pytest.mark.parametrize(
    ("after", "at", "error"),
    [
        (None, None, "give `after="),
        (MINUTES, datetime(2027, 1, 1, tzinfo=UTC), "give `after="),
        (900, None, "give a timedelta"),
        (None, "2027-01-01", "give a datetime"),
        (None, datetime(2027, 1, 1), "has no time zone"),  # noqa: DTZ001
        (YEARS_MAX + timedelta(seconds=1), None, "beyond ten years"),
        (None, datetime.max.replace(tzinfo=UTC), "beyond ten years"),
        (timedelta.max, None, "beyond ten years"),
    ],
)
def test_a_moment_that_is_none_is_refused(after: Any, at: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        moment(after, at)


@pytest.mark.parametrize(
    ("after", "at"),
    [
        (timedelta(days=-1), None),
        (timedelta.min, None),
        (None, datetime.min.replace(tzinfo=UTC)),
        (None, datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))),
    ],
)
def test_what_is_long_past_is_now(after: timedelta | None, at: datetime | None) -> None:
    assert moment(after, at) == Moment(0.0, None)


def test_a_moment_keeps_its_place_in_any_zone() -> None:
    at = datetime.now(timezone(timedelta(hours=-11, minutes=-30)))
    assert moment(None, at) == Moment(None, at)
    assert moment(MINUTES, None) == Moment(900.0, None)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * (NAME_BYTES_MAX + 1), "é" * NAME_BYTES_MAX, 7, None])
def test_a_name_that_no_index_takes_is_refused(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="the name of a scheduled event"):
        Change(name, None, lambda: None)


def test_a_long_name_is_taken() -> None:
    assert Change("x" * NAME_BYTES_MAX, None, lambda: None).name
