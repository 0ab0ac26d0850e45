"""An invalid handler is refused with a sentence where it is declared: at the service's import."""

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import msgspec
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.declaration.rows import lock
from shared.errors import HandlingFailed, Reject
from shared.events import Envelope, Event
from shared.postgres.handlers import Handlers
from shared.protocol.ports import Delivery, Input, Record
from shared.service import Service
from shared.session import Session
from shared.states import NONE, Machine, ignore, refuse, to
from shared.telemetry import failures
from shared.testing import Scene


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="NEW")
    others: Mapped[str] = mapped_column(default="")
    """Keys of others, with commas."""


class Other(Base):
    __tablename__ = "other"

    id: Mapped[str] = mapped_column(primary_key=True)
    seen: Mapped[int] = mapped_column(default=0)


class Seat(Base):
    __tablename__ = "seat"

    room: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Happened(Event, topic="events", key="id"):
    id: str = "a"


class Ended(Event, topic="events", key="thing"):
    thing: str = "a"


class Told(Event, topic="told", key="id"):
    id: str = "a"


class Secret(Event, topic="told", key="id"):
    id: str = "a"


RECORD = Record(Input("events", 0), 7, b"key", b"{}", None)
ENVELOPE = Envelope(id="1", source="s", type="Happened", version=1, time="", key="key", data=b"{}")
DELIVERY = Delivery(RECORD, ENVELOPE, Happened(), 0)

THINGS = Machine(
    Thing,
    ("NEW", "OLD", "LOST"),
    {
        Happened: {NONE: to("NEW"), "NEW": to("OLD"), "OLD": ignore("it is old"), "LOST": refuse("it is lost")},
        Ended: {NONE: refuse("nothing began"), "NEW": to("OLD", "LOST"), "OLD": to("LOST"), "LOST": ignore("lost")},
    },
)


def service() -> Service:
    return Service("things", publishes=(Told,))


def good(event: Happened, session: Session) -> Iterable[Event]:
    return ()


def stream(event: Happened, session: Session) -> Iterable[Event]:
    yield Told(id=event.id)


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


def nothing() -> None:
    pass


def of_another(event: Ended) -> None:
    pass


def no_return_type(event: Happened):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return Told()


def no_type(event: Happened, thing) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    pass


def misspelt(event: Happened, thing: "Thnig") -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def undeclared(event: Happened) -> tuple[Told | Secret, ...] | None:
    return None


def unknown_field(event: Happened, other: Annotated[Other, lock(by="otehr_id")]) -> None:
    pass


def no_field(event: Happened, seat: Seat) -> None:
    pass


def no_keys(event: Happened, others: Mapping[str, Other]) -> None:
    pass


def no_table(event: Happened, other: Annotated[int, lock(by="id")]) -> None:
    pass


def too_few(event: Happened, seat: Annotated[Seat, lock(by="id")]) -> None:
    pass


def unknown_row(
    event: Happened, others: Annotated[Mapping[str, Other], lock(by=lambda event, thing: thing.others)]
) -> None:
    pass


def optional_many(event: Happened, others: Annotated[Mapping[str, Other] | None, lock(by=lambda event: ())]) -> None:
    pass


def must_be_optional(event: Happened, thing: Thing) -> None:
    pass


def never_none(event: Ended, thing: Annotated[Thing | None, lock(by="thing")]) -> None:
    pass


def two_judged(event: Happened, thing: Thing | None, second: Annotated[Thing | None, lock(by="id")]) -> None:
    pass


def judged_by_no_field(event: Ended) -> None:
    pass


@pytest.mark.parametrize("handler", [good, stream, Callable(), Callable().method, partial(with_more, more="")])
def test_a_function_of_an_event_and_a_session_is_a_handler(handler: Any) -> None:
    made = service()
    assert made.on(Happened)(handler) is handler
    assert [route.handler for route in made.routes] == [handler]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (later, r"handler of Happened, later is async; .* write it with `def`"),
        (streams_later, "is async"),
        (Later(), "is async"),
        (Callable().later, "is async"),
        (partial(later), "is async"),
        (with_more, r"`more` is declared as str; besides the event a handler takes"),
        (nothing, "its first parameter is the event, and it takes none"),
        (of_another, "`event` is declared as Ended, and would be given Happened"),
        (undeclared, "it returns Secret, which is not published: add it to `publishes`"),
        (no_return_type, r"it has no return type: write `-> Told` for the event that it publishes, or `-> None`"),
        (no_type, "`thing` has no type; besides the event a handler takes"),
        (misspelt, r"name 'Thnig' is not defined. Is it misspelt, or imported only under"),
        (unknown_field, r"`other` is the Other that Happened.otehr_id names, and there is no such field"),
        (no_field, r"`seat` is the Seat that Happened.room names"),
        (no_keys, r"`others` is many rows: declare their keys, `lock\(by=lambda event: ...\)`"),
        (no_table, "`other` is <class 'int'>, which is not a class of a table"),
        (too_few, r"the key of Seat is \(room, number\); `seat` names"),
        (unknown_row, "looks at `thing`, and no row of that name is declared before it"),
        (optional_many, "`others` is a Mapping, which is empty if there are no rows"),
        (Made, "Made, is not a function"),
        (None, "is not a function"),
        ((), "is not a function"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(handler: Any, why: str) -> None:
    made = service()
    with pytest.raises(TypeError, match=why):
        made.on(Happened)(handler)
    assert made.routes == ()


@pytest.mark.parametrize(
    ("event", "handler", "why"),
    [
        (
            Happened,
            must_be_optional,
            r"leads from \(none\) to NEW, so .* declare `thing` as `Thing",
        ),
        (Ended, never_none, "`thing` is never None, .* declare it as `Thing`"),
        (Happened, two_judged, "thing and second are both rows of thing"),
        (Ended, judged_by_no_field, r"is the Thing that Ended.id names, and there is no such field"),
        (Told, stream, "the table of thing has no row for Told"),
    ],
)
def test_a_handler_that_does_not_fit_its_machine_is_refused(event: Any, handler: Any, why: str) -> None:
    handler = (lambda told: None) if event is Told else handler
    with pytest.raises(TypeError, match=why):
        service().on(event, THINGS)(handler)


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(TypeError, match="class of events"):
        service().on(Thing)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="class of events"):
        Service("things", publishes=(Thing,))  # type: ignore[arg-type]

    class Homeless(Event, key="id"):
        id: str

    with pytest.raises(TypeError, match=r"Homeless has no topic: `class Homeless\(..., topic=\"...\"\)`"):
        service().on(Homeless)


def test_the_form_of_before_is_refused_with_the_new_one() -> None:
    with pytest.raises(TypeError, match=r"`publishes=\(Event, ...\)` instead of `says=`"):
        Service(name="things", routes=(), says=())  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r"write `@service.on\(Event\)` above the handler"):
        exec("from shared.service import Read")


def test_rows_are_found_by_fields_by_functions_and_by_rows_before() -> None:
    made = service()

    @made.on(Happened)
    def see(
        event: Happened,
        thing: Thing,
        others: Annotated[Mapping[str, Other], lock(by=lambda _, thing: thing.others.split())],
    ) -> Told:
        for other in others.values():
            other.seen += 1
        with pytest.raises(LookupError, match="there is no Other 'z'"):
            _ = others["z"]
        return Told(id=thing.id)

    scene = Scene(made, Thing(id="a", others="x y z"), Other(id="x"), Other(id="y"), Other(id="w"))
    assert scene.when(Happened()) == [Told(id="a")]
    assert {other.id: other.seen for other in scene.rows(Other)} == {"x": 1, "y": 1, "w": 0}
    with pytest.raises(Reject, match="no Thing for Happened 'b'; a handler that does without declares `thing: "):
        scene.when(Happened(id="b"))


def test_the_machine_decides_whether_a_handler_is_called_and_moves_the_row() -> None:
    made, called = service(), []

    @made.on(Happened, THINGS)
    def happened(event: Happened, session: Session, thing: Thing | None) -> None:
        called.append(event.id)
        if thing is None:
            session.add(Thing(id=event.id, state="NEW"))

    scene = Scene(made, Thing(id="new"), Thing(id="old", state="OLD"), Thing(id="lost", state="LOST"))
    assert scene.when(*(Happened(id=key) for key in ("new", "old", "none"))) == []
    assert called == ["new", "none"]
    assert {thing.id: thing.state for thing in scene.rows(Thing)} == {
        "new": "OLD",
        "old": "OLD",
        "lost": "LOST",
        "none": "NEW",
    }
    with pytest.raises(Reject, match="Happened is refused for thing in state LOST: it is lost"):
        scene.when(Happened(id="lost"))


@pytest.mark.parametrize(
    ("state", "after", "fails"), [("NEW", "LOST", ""), ("NEW", "NEW", "to NEW, only to OLD or LOST")]
)
def test_a_state_that_the_handler_chooses_must_be_in_the_table(state: str, after: str, fails: str) -> None:
    made = service()

    @made.on(Ended, THINGS)
    def ended(event: Ended, thing: Annotated[Thing, lock(by="thing")]) -> None:
        thing.state = after

    scene = Scene(made, Thing(id="a", state="NEW"))
    if fails:
        with pytest.raises(ValueError, match=fails):
            scene.when(Ended())
        assert scene.row(Thing, "a").state == "NEW"
    else:
        scene.when(Ended())
        assert scene.row(Thing, "a").state == after


def returns(what: Any) -> Any:
    def handler(event: Happened, session: Session, thing: Thing) -> Any:
        session.publish(Told(id="a"))
        return what

    return handler


@pytest.mark.parametrize(
    ("what", "count"), [(None, 1), ((), 1), (Told(), 2), ([Told(), Told()], 3), ((Told() for _ in "x"), 2)]
)
def test_a_handler_returns_one_event_several_or_none_and_may_publish_before(what: Any, count: int) -> None:
    made = service()
    made.on(Happened)(returns(what))
    assert Scene(made, Thing(id="a")).when(Happened()) == [Told()] * count


def test_a_forgotten_return_loses_no_event() -> None:
    made = service()

    @made.on(Happened)
    def forgets(event: Happened, thing: Thing) -> Told:
        return None  # type: ignore[return-value]

    with pytest.raises(TypeError, match="forgets returned nothing; a handler returns the event"):
        Scene(made, Thing(id="a")).when(Happened())


class Counted(Event, topic="told", key="id"):
    id: str = "a"
    left: Annotated[int, msgspec.Meta(ge=0)] = 0


@pytest.mark.parametrize("way", ["returned", "published"])
def test_an_event_that_its_own_type_refuses_is_not_published(way: str) -> None:
    """Every consumer would be the first to notice: msgspec checks only what it decodes."""
    made = Service("things", publishes=(Counted,))

    @made.on(Happened)
    def count(event: Happened, session: Session, thing: Thing) -> Counted | None:
        if way == "published":
            session.publish(Counted(left=-1))
        return Counted(left=-1)

    with pytest.raises(ValueError, match=r"Counted is not what its own type declares: .* >= 0 - at `\$.left`"):
        Scene(made, Thing(id="a")).when(Happened())


def test_no_event_that_its_own_type_refuses_reaches_a_handler_of_a_scene() -> None:
    """No worker would hand it over."""
    made = service()

    @made.on(Counted)
    def seen(event: Counted) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="Counted is not what its own type declares"):
        Scene(made).when(Counted(left=-1))


class Panic(BaseException):
    """An error that extensions in Rust raise."""


class Unspeakable(BaseException):
    """An error whose text ends the process."""

    def __str__(self) -> str:
        raise SystemExit(9)


@pytest.mark.parametrize("error", [SystemExit(3), Panic("it broke"), GeneratorExit(), Unspeakable()], ids=repr)
@pytest.mark.parametrize("where", ["handler", "rows"])
def test_nothing_that_a_record_brings_about_ends_the_process(error: BaseException, where: str) -> None:
    def keys(event: Happened) -> Iterator[str]:
        raise error

    def broken(event: Happened, things: Annotated[Mapping[str, Thing], lock(by=keys)]) -> None:
        pass

    def breaks(event: Happened) -> None:
        raise error

    made = service()
    made.on(Happened)(breaks if where == "handler" else broken)
    with pytest.raises(HandlingFailed) as failed:
        Handlers(made).run([DELIVERY], Session(create_engine("postgresql+psycopg://nowhere")), lambda *_: None)
    assert failed.value.record == RECORD
    assert isinstance(failed.value.__cause__, Exception)
    assert type(error).__name__ in str(failed.value.__cause__)


def test_a_flush_that_fails_names_the_classes_whose_rows_it_writes() -> None:
    """It may fail long after the handler that changed them has returned."""
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
    made = service()
    for handler in (good, partial(with_more, more=""), Callable()):
        made.on(Happened)(handler)

    places = Handlers(made).places([DELIVERY] * 3)

    assert [re.sub(r":\d+", ":n", place) for place in places] == [
        "tests/unit/test_service.py:n in good: handles Happened.v1, 3 in this batch",
        "tests/unit/test_service.py:n in with_more: handles Happened.v1, 3 in this batch",
        "Callable: handles Happened.v1, 3 in this batch",
    ]
