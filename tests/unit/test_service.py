"""What cannot be a handler is refused where it is declared, with a sentence: at the import of the service."""

import re
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.errors import HandlingFailed
from shared.events import Envelope, Event
from shared.postgres.handlers import Handlers
from shared.protocol.ports import Delivery, Input, Record
from shared.service import Read, Service, on
from shared.session import Session
from shared.telemetry import failures


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[str] = mapped_column(primary_key=True)


class Other(Base):
    __tablename__ = "other"

    id: Mapped[str] = mapped_column(primary_key=True)


class Happened(Event, frozen=True, kw_only=True):
    topic = "events"


RECORD = Record(Input("events", 0), 7, b"key", b"{}", None)
ENVELOPE = Envelope(id="1", source="s", type="Happened", version=1, time="", key="key", data=b"{}")
DELIVERY = Delivery(RECORD, ENVELOPE, Happened(), 0)


def good(event: Happened, session: Session) -> Iterable[Event]:
    return ()


def stream(event: Happened, session: Session) -> Iterable[Event]:
    yield event


class Callable:
    def __call__(self, event: Happened, session: Session) -> Iterable[Event]:
        return ()

    def method(self, event: Happened, session: Session) -> Iterable[Event]:
        return ()

    async def later(self, event: Happened, session: Session) -> Iterable[Event]:
        return ()


class Later:
    async def __call__(self, event: Happened, session: Session) -> Iterable[Event]:
        return ()


class Made:
    def __init__(self, event: Happened, session: Session) -> None:
        pass


async def later(event: Happened, session: Session) -> Iterable[Event]:
    return ()


async def streams_later(event: Happened, session: Session) -> AsyncIterator[Event]:
    yield event


def with_more(event: Happened, session: Session, more: str) -> Iterable[Event]:
    return ()


@pytest.mark.parametrize(
    "handler",
    [good, stream, Callable(), Callable().method, partial(with_more, more=""), lambda _event, _session, more=1: ()],
)
def test_a_function_of_an_event_and_a_session_is_a_handler(handler: Any) -> None:
    assert on(Happened, handler).handler is handler


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (later, r"handler of Happened, later, is async; .* write it with `def`"),
        (streams_later, "is async"),
        (Later(), "is async"),
        (Callable().later, "is async"),
        (partial(later), "is async"),
        (with_more, "takes something else: missing a required argument: 'more'"),
        (lambda event: (), "takes something else: too many positional arguments"),
        (Made, "Made, is no function"),
        (None, "is no function"),
        ((), "is no function"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(handler: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        on(Happened, handler)
    with pytest.raises(TypeError, match=r"keys of Read\(Thing"):
        Read(Thing, handler)


def test_what_is_no_event_and_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match="class of events"):
        on(Thing, good)  # type: ignore[type-var, arg-type]
    with pytest.raises(TypeError, match="class of a table"):
        Read(Happened, lambda event, session: ())
    with pytest.raises(TypeError, match="class of a table"):
        Read(Base, lambda event, session: ())
    with pytest.raises(TypeError, match=r"no Read\(Model, keys\)"):
        on(Happened, good, Thing)  # type: ignore[arg-type]


class Panic(BaseException):
    """As extensions in Rust raise it."""


class Unspeakable(BaseException):
    """Its words end the process."""

    def __str__(self) -> str:
        raise SystemExit(9)


@pytest.mark.parametrize("error", [SystemExit(3), Panic("it broke"), GeneratorExit(), Unspeakable()], ids=repr)
@pytest.mark.parametrize("where", ["handler", "read"])
def test_nothing_that_a_record_brings_about_ends_the_process(error: BaseException, where: str) -> None:
    def broken(event: Happened, session: Session) -> Iterable[Event]:
        raise error

    def keys(event: Happened, session: Session) -> Iterable[str]:
        raise error

    route = on(Happened, broken) if where == "handler" else on(Happened, good, Read(Thing, keys))
    made = Handlers(Service(name="broken", publishes=(), routes=(route,)))

    with pytest.raises(HandlingFailed) as failed:
        made.run([DELIVERY], Session(create_engine("postgresql+psycopg://nowhere")), lambda *_: None)
    assert failed.value.record == RECORD
    assert isinstance(failed.value.__cause__, Exception)
    assert type(error).__name__ in str(failed.value.__cause__)


def test_a_flush_that_fails_names_the_classes_whose_rows_it_writes() -> None:
    """It may fail long after the handler that changed them has come back."""
    session = Session(create_engine("sqlite://"))
    session.add(Other(id="1"))
    session.add(Thing(id="canary-4711"))

    with pytest.raises(OperationalError) as failed:  # neither has a table
        session.flush()

    told = failures.frames(failed.value)
    assert told.splitlines()[1] == "  tests/unit/test_service.py, Other, table other: rows of it were being written"
    assert failures.place(failed.value.with_traceback(None)).startswith("tests/unit/test_service.py, Other, table")
    assert "Thing" not in told, "that is not what failed"
    assert "canary" not in told


def test_the_handlers_of_a_batch_are_named_with_what_they_handle() -> None:
    routes = (on(Happened, good), on(Happened, partial(with_more, more="")), on(Happened, Callable()))
    made = Handlers(Service(name="named", publishes=(), routes=routes))

    places = made.places([DELIVERY] * 3)

    assert [re.sub(r":\d+", ":n", place) for place in places] == [
        "tests/unit/test_service.py:n in good: handles Happened.v1, 3 in this batch",
        "tests/unit/test_service.py:n in with_more: handles Happened.v1, 3 in this batch",
        "Callable: handles Happened.v1, 3 in this batch",
    ]
