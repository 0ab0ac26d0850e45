"""An invalid handler is refused with a sentence where it is declared: at the service's import."""

import collections.abc
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import msgspec
import pytest
import sqlalchemy.orm
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


class Versioned(Base):
    __tablename__ = "versioned"

    version: Mapped[int] = mapped_column(primary_key=True)


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


def session_with_default(event: Happened, session: Session | None = None) -> None:
    pass


def session_of_sqlalchemy(event: Happened, session: sqlalchemy.orm.Session | None = None) -> None:
    pass


def list_with_default(event: Happened, things: list[Thing] = []) -> None:  # noqa: B006
    pass


def mapping_of_lists(event: Happened, things: Annotated[dict[str, list[Thing]] | None, "all"] = None) -> None:
    pass


def either_with_default(event: Happened, thing: Thing | Other | None = None) -> None:
    pass


def untyped_with_default(event: Happened, thing=None) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    pass


def any_with_default(event: Happened, thing: Any = None) -> None:
    pass


def several_rows(event: Happened, *things: Thing) -> None:
    pass


def rows_by_keyword(event: Happened, **things: Thing) -> None:
    pass


def only_by_position(event: Happened, thing: Thing, /) -> None:
    pass


def wrapped_by_nothing(*given: Any, **more: Any) -> Any:
    pass


def wrapped_after_the_event(event: Any, *given: Any) -> Any:
    pass


def row_of_a_class_argument(event: Happened, row: Versioned | None) -> None:
    pass


def by_a_class_argument(event: Happened, thing: Annotated[Thing | None, lock(by="topic")]) -> None:
    pass


def by_a_method(event: Happened, thing: Annotated[Thing | None, lock(by="__repr__")]) -> None:
    pass


def in_another_order(event: "Placed", seat: Annotated[Seat | None, lock(by=("number", "room"))]) -> None:
    pass


class Placed(Event, topic="events"):
    """It has no key, and a field that its author made."""

    room: str = "blue"
    number: int = 7

    @property
    def other(self) -> str:
        return "o"


def by_its_own_key(event: Placed, thing: Annotated[Thing | None, lock(by="key")]) -> None:
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
        (session_with_default, r"`session` has a default, which it would always be given: .* `session: Session`"),
        (session_of_sqlalchemy, "`session` has a default, which"),
        (list_with_default, "`things` has a default, which"),
        (mapping_of_lists, "`things` has a default, which"),
        (either_with_default, "`thing` has a default, which"),
        (untyped_with_default, "`thing` has a default, which"),
        (any_with_default, "`thing` has a default, which"),
        (several_rows, r"`\*things` .* if a decorator made it, write `@functools.wraps\(handler\)` in that"),
        (rows_by_keyword, r"`\*\*things` .* if a decorator"),
        (wrapped_by_nothing, r"`\*given` .* if a decorator"),
        (wrapped_after_the_event, r"`\*given` .* if a decorator"),
        (only_by_position, "`thing` is given by name: leave the `/` away"),
        (row_of_a_class_argument, "`row` is the Versioned that Happened.version names, and there is no such field"),
        (by_a_class_argument, "Happened.topic names, and there is no such field"),
        (by_a_method, "Happened.__repr__ names, and there is no such field"),
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


def test_fields_in_the_order_of_other_columns_are_refused() -> None:
    with pytest.raises(TypeError, match=r"`seat` .* \(room, number\), and is found by \(number, room\): write `lock"):
        service().on(Placed)(in_another_order)


def test_a_row_is_found_by_the_key_of_an_event_only_if_it_has_one() -> None:
    with pytest.raises(TypeError, match=r"Placed\.key names, and there is no such field"):
        service().on(Placed)(by_its_own_key)

    made = service()

    @made.on(Happened)
    def by_key(event: Happened, thing: Annotated[Thing, lock(by="key")]) -> Told:
        return Told(id=thing.id)

    @made.on(Placed)
    def by_property(event: Placed, thing: Annotated[Thing, lock(by="other")]) -> Told:
        return Told(id=thing.id)

    scene = Scene(made, Thing(id="a"), Thing(id="o"))
    assert scene.when(Happened()) == [Told(id="a")]
    scene_of_property = Scene(made, Thing(id="a"), Thing(id="o"))
    assert [route.name.rpartition(".")[2] for route in made.routes] == ["by_key", "by_property"]
    assert scene_of_property.row(Thing, "o").id == "o"


def test_parameters_with_defaults_that_mean_no_row_are_the_handlers_own() -> None:
    def own(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        event: Happened,
        session: Session,
        thing: Thing | None = None,
        limit: int = 3,
        names: tuple[str, ...] = (),
        model: type[Thing] = Thing,
        make: Any = Thing,
        hook: collections.abc.Callable[[str], Thing] | None = None,
        untyped=5,  # noqa: ANN001
    ) -> Told | None:
        return Told(id=str(limit)) if thing else None

    made = service()
    made.on(Happened)(own)
    assert [rows.name for rows in made.routes[0].rows] == ["thing"]


def keyed_by(by: Any, *, many: bool) -> Service:
    made = service()
    if many:

        @made.on(Happened)
        def rows_of(event: Happened, others: Annotated[Mapping[str, Other], lock(by=by)]) -> None:
            pass
    else:

        @made.on(Happened)
        def row_of(event: Happened, other: Annotated[Other | None, lock(by=by)]) -> None:
            pass

    return made


@pytest.mark.parametrize("keys", ["ab", b"ab", None, 5, [["a"]]], ids=repr)
def test_the_keys_of_a_mapping_are_several(keys: Any) -> None:
    """Text would be taken apart: the rows "a" and "b" locked, and the row "ab" missed."""
    made = keyed_by(lambda event: keys, many=True)
    with pytest.raises(TypeError, match=r"rows_of: `lock\(by=...\)` of `others` returned .*, not several keys: a list"):
        Scene(made).when(Happened())


@pytest.mark.parametrize("key", [["a"], {"a": 1}])
def test_the_key_of_a_row_is_one(key: Any) -> None:
    made = keyed_by(lambda event: key, many=False)
    with pytest.raises(TypeError, match=r"row_of: `lock\(by=...\)` of `other` returned .*, not one key"):
        Scene(made).when(Happened())


def test_a_field_that_is_no_key_names_the_handler() -> None:
    class Listed(Event, topic="events", key="id"):
        id: str = "a"
        others: list[str] = msgspec.field(default_factory=lambda: ["b"])

    made = service()

    @made.on(Listed)
    def listed(event: Listed, other: Annotated[Other | None, lock(by="others")]) -> None:
        pass

    with pytest.raises(TypeError, match=r"listed: `lock\(by=...\)` of `other` returned \['b'\], not one key"):
        Scene(made).when(Listed())


@pytest.mark.parametrize("by", [5, Happened.id, Thing.id, ("id", 5), [5]])
def test_what_finds_no_row_is_refused(by: Any) -> None:
    with pytest.raises(TypeError, match=r"`lock\(by=...\)` takes the name of a field"):
        lock(by=by)


def does_nothing(event: Happened | Ended) -> None:
    pass


def test_a_handler_is_declared_once_for_an_event() -> None:
    why = r"handler of Happened, does_nothing, is declared for it twice, and would run twice"
    with pytest.raises(TypeError, match=why):
        service().on(Happened, Happened)(does_nothing)
    made = service()
    made.on(Happened)(does_nothing)
    made.on(Ended)(does_nothing)
    with pytest.raises(TypeError, match=why):
        made.on(Happened)(does_nothing)
    assert [route.event.__name__ for route in made.routes] == ["Happened", "Ended"]


def moves(event: Happened, thing: Thing | None) -> None:
    pass


def test_one_handler_of_an_event_moves_a_row() -> None:
    """The first would move it, and the second meet the next state's cell."""
    made = service()
    made.on(Happened, THINGS)(moves)
    second = Machine(Thing, THINGS.states[1:], {Happened: THINGS.table[Happened]}, name="second")
    for machine in (THINGS, second):
        with pytest.raises(
            TypeError, match=r"does_nothing, and moves both have their row of Thing moved: leave .* away"
        ):
            made.on(Happened, machine)(does_nothing)
    made.on(Happened)(does_nothing)
    assert len(made.routes) == 2


def test_two_handlers_of_an_event_may_each_move_a_row() -> None:
    class Sent(Event, topic="events", key="giver"):
        giver: str = "a"
        taker: str = "b"

    sent = Machine(Thing, ("NEW", "OLD"), {Sent: {NONE: refuse("none"), "NEW": to("OLD"), "OLD": ignore("old")}})
    made = service()

    @made.on(Sent, sent)
    def give(event: Sent, thing: Annotated[Thing, lock(by="giver")]) -> None:
        pass

    @made.on(Sent, sent)
    def take(event: Sent, thing: Annotated[Thing, lock(by="taker")]) -> None:
        pass

    scene = Scene(made, Thing(id="a"), Thing(id="b"))
    scene.when(Sent())
    assert {thing.state for thing in scene.rows(Thing)} == {"OLD"}


def forgets_the_machine(event: Happened, thing: Thing | None) -> None:
    pass


def moves_end(event: Ended, thing: Annotated[Thing, lock(by="thing")]) -> None:
    pass


def test_a_forgotten_machine_is_found_before_an_event_comes() -> None:
    for first in (True, False):
        made = service()
        if first:
            made.on(Happened)(forgets_the_machine)
        made.on(Ended, THINGS)(moves_end)
        if not first:
            made.on(Happened)(forgets_the_machine)
        why = (
            r"of Happened, forgets_the_machine: the table of thing has a row for Happened, .* `@service.on\(Happened, "
        )
        with pytest.raises(TypeError, match=why):
            Handlers(made)
        with pytest.raises(TypeError, match=why):
            Handlers(made.renamed("other"))


def test_a_handler_may_move_rows_itself_if_it_says_so() -> None:
    """Which row it is may be known only to a query."""
    made = service()
    made.on(Ended, THINGS)(moves_end)
    made.on(Happened, None)(forgets_the_machine)
    assert len(Handlers(made.renamed("other"))._routes) == 2


def test_a_handler_of_many_rows_moves_them_itself() -> None:
    made = service()
    made.on(Ended, THINGS)(moves_end)

    @made.on(Happened)
    def all_of_them(event: Happened, things: Annotated[Mapping[str, Thing], lock(by=lambda event: ("a", "b"))]) -> None:
        for thing in things.values():
            THINGS.move(thing, Happened)

    scene = Scene(made, Thing(id="a"), Thing(id="b"))
    scene.when(Happened())
    assert {thing.state for thing in scene.rows(Thing)} == {"OLD"}


def test_two_classes_of_one_type_are_refused() -> None:
    """A record is decoded as one of them: the handler of the other would never be called."""

    def view(version: int = 1, topic: str = "events") -> Any:
        class Happened(Event, topic=topic, key="id", version=version):
            id: str = "a"

        return Happened

    made = service()
    made.on(Happened)(does_nothing)
    for other in (view(2), view(topic="others")):
        made.on(other)(partial(with_more_or_less))
    with pytest.raises(TypeError, match=r"two classes are Happened.v1 on events, tests?\..*\.Happened and .*Happened:"):
        made.on(view())(partial(with_more_or_less))
    with pytest.raises(TypeError, match=r"Service\('s', publishes=...\): two classes are Happened.v1 on events"):
        Service("s", publishes=(Happened, view()))


def with_more_or_less(event: Any) -> None:
    pass


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "ä", "x" * 201, None, 5])
def test_a_name_that_cannot_begin_a_topic_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"the name of a service begins its topics: letters, digits"):
        Service(name)


@pytest.mark.parametrize("topic", ["", "a b", "a/b", ".", "..", "x" * 250, "a\n", 5])
def test_a_topic_that_kafka_does_not_take_is_refused(topic: Any) -> None:
    class Lost(Event, topic=topic, key="id"):
        id: str

    with pytest.raises(ValueError, match=r"the topic of Lost is .*; Kafka takes letters, digits"):
        service().on(Lost)
    with pytest.raises(ValueError, match=r"the topic of Lost is "):
        Service("s", publishes=(Lost,))


@pytest.mark.parametrize("version", [0, -1, 1.5, 40_000, True, "2"])
def test_a_version_that_no_outbox_holds_is_refused(version: Any) -> None:
    class Odd(Event, topic="odd", key="id", version=version):
        id: str

    with pytest.raises(ValueError, match=r"the version of Odd is .*; it is a whole number from 1 to 32767"):
        service().on(Odd)
    with pytest.raises(ValueError, match=r"the version of Odd is "):
        Service("s", publishes=(Odd,))


def test_the_topic_of_the_lanes_stays_empty() -> None:
    class Wrong(Event, topic="things.outbox", key="id"):
        id: str

    for refused in (lambda: Service("things", publishes=(Wrong,)), lambda: service().on(Wrong)):
        with pytest.raises(
            ValueError, match=r"Wrong is on things\.outbox, where the library keeps the published positions"
        ):
            refused()
    assert Service("others", publishes=(Wrong,)).renamed("more").publishes == (Wrong,)
    with pytest.raises(ValueError, match=r"things\.outbox"):
        Service("others", publishes=(Wrong,)).renamed("things")


def test_an_event_that_is_published_has_a_key() -> None:
    class Perhaps(Event, topic="told", key=("room", "id")):
        room: str = ""
        id: Annotated[str | None, "x"] = None

    class Unset(Event, topic="told", key="id"):
        id: str | msgspec.UnsetType = msgspec.UNSET

    class Own(Event, topic="told"):
        id: str | None = None

        @property
        def key(self) -> str:
            return self.id or "none"

    with pytest.raises(TypeError, match=r"publishes Placed, which has no key: `class Placed\(..., key=\"...\"\)`"):
        Service("s", publishes=(Placed,))
    for event, field in ((Perhaps, "id"), (Unset, "id")):
        with pytest.raises(TypeError, match=f"the key of {event.__name__} is `{field}`, which may be without a value"):
            Service("s", publishes=(event,))
    assert Service("s", publishes=(Own,)).publishes == (Own,)
    service().on(Perhaps)


def test_an_empty_key_is_refused_where_it_is_published() -> None:
    made = service()

    @made.on(Happened)
    def tell(event: Happened, thing: Thing | None) -> Told:
        return Told(id="")

    with pytest.raises(ValueError, match="Told has an empty key"):
        Scene(made).when(Happened())


def test_a_single_event_is_no_list_of_events() -> None:
    with pytest.raises(TypeError, match=r"write `publishes=\(Told,\)`"):
        Service("s", publishes=Told)  # type: ignore[arg-type]


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
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        session.add(Other(id="1"))
        session.add(Thing(id="canary-4711"))

        with pytest.raises(OperationalError) as failed:  # neither has a table
            session.flush()
    engine.dispose()  # Python 3.13 warns of a database that is left open, and a warning fails any later test

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


def test_a_handler_may_let_later_records_wait_behind_a_dead_letter_of_its_type() -> None:
    made = Service("waits")

    @made.on(Happened, after_dead_letter="wait")
    def handle(event: Happened) -> None:
        """Do nothing."""

    @made.on(Ended)
    def end(event: Ended) -> None:
        """Do nothing."""

    handlers = Handlers(made)

    def record(kind: bytes, key: bytes | None = b"k") -> Record:
        return Record(Input(Happened.topic, 0), 0, key, b"not read", [("ce_type", kind)])

    assert handlers.holds(record(b"Happened.v9"))
    assert not handlers.holds(record(b"Happened.v9", None)), "nothing is behind it"
    assert not handlers.holds(record(b"Ended.v1"))
    assert not handlers.holds(Record(Input(Happened.topic, 0), 0, b"k", None, None))
    with pytest.raises(ValueError, match='write "wait" if later records'):
        made.on(Ended, after_dead_letter=True)  # type: ignore[call-overload]
