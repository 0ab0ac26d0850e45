"""Rows in memory behave for a handler as with the real session on a PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, ForeignKey, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, StatementError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shared import Event, Service, Session, Tables
from shared.errors import NotOwned, Reject, SessionMisused
from shared.testing import MakeTrial, MemorySession, Scene


class Base(Tables, DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelf"

    id: Mapped[str] = mapped_column(primary_key=True)
    items: Mapped[int]
    room: Mapped[str] = mapped_column(default="hall")
    locked: Mapped[bool] = mapped_column(server_default=text("false"))


class Place(Base):
    __tablename__ = "place"

    room: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Page(Base):
    """All that `Tables` makes JSONB, and a column that is JSONB by its own type."""

    __tablename__ = "page"

    id: Mapped[str] = mapped_column(primary_key=True)
    counts: Mapped[dict[str, int]] = mapped_column(default=dict)
    words: Mapped[list[str]] = mapped_column(default=list)
    tree: Mapped[dict[str, Any]] = mapped_column(default=dict)
    own: Mapped[Any] = mapped_column(JSONB, default=dict)
    theirs: Mapped[Any] = mapped_column(MutableDict.as_mutable(JSONB), default=dict)


class Draft(Base):
    """A row whose values the program or the database makes."""

    __tablename__ = "draft"

    number: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[UUID] = mapped_column(default=uuid4)
    state: Mapped[str] = mapped_column(server_default="new")
    room: Mapped[str] = mapped_column(server_default=text("'hall'"))
    places: Mapped[int] = mapped_column(server_default=text("7"))
    made_at: Mapped[str] = mapped_column(server_default=func.current_user())


class Parent(Base):
    __tablename__ = "parent"

    id: Mapped[str] = mapped_column(primary_key=True)
    kids: Mapped[list["Kid"]] = relationship(back_populates="parent", order_by="Kid.id")


class Kid(Base):
    __tablename__ = "kid"

    id: Mapped[str] = mapped_column(primary_key=True)
    parent_id: Mapped[str] = mapped_column(ForeignKey("parent.id"))
    parent: Mapped[Parent] = relationship(back_populates="kids")


class Filled(Event, topic="shelves", key="id"):
    id: str
    how: str = ""


class Done(Event, topic="shelves.done", key="id"):
    id: str
    text: str = ""


SHELVES = Service("shelves", publishes=(Done,))


@SHELVES.on(Filled)
def handle(event: Filled, session: Session) -> Done | None:
    match event.how:
        case "add":
            session.add(Shelf(id=event.id, items=1))
        case "delete":
            session.delete(session.lock(Shelf, event.id))
            return Done(id=event.id)
        case "delete what was read":
            session.delete(session.get(Shelf, event.id))
            return Done(id=event.id)
        case "large":
            session.lock(Shelf, event.id)
            return Done(id=event.id, text="x" * 2_000_000)
        case "NUL":
            session.add(Shelf(id=event.id, items=1, room="a\0b"))
        case "schedule" | "schedule anew":
            shelf = session.lock(Shelf, event.id)
            assert shelf is not None
            shelf.items = int(bool(session.schedule(Done(id=event.id, text=event.how), after=HOUR, name=event.id)))
        case "cancel":
            shelf = session.lock(Shelf, event.id)
            assert shelf is not None
            shelf.items = int(bool(session.cancel(event.id)))
        case "schedule in vain":
            session.lock(Shelf, event.id)
            session.schedule(Done(id=event.id), after=HOUR, name=event.id)
            raise Reject("after all")
        case "no items":
            row = session.lock(Shelf, event.id)
            assert row is not None
            row.items = None  # type: ignore[assignment]
        case _:
            pass
    return None


HOUR = timedelta(hours=1)
Made = Callable[..., Session]


@pytest.fixture(params=["memory", "PostgreSQL"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    """Makes a session in which the given rows are there, and none of them is locked."""
    if request.param == "memory":
        yield lambda *rows: MemorySession(rows)
        return
    engine_of: Callable[[Service, type[DeclarativeBase]], Engine] = request.getfixturevalue("_engine_of")
    with ExitStack() as stack:
        connection = stack.enter_context(engine_of(SHELVES, Base).connect())

        def make(*rows: DeclarativeBase) -> Session:
            transaction = connection.begin()
            stack.callback(lambda: transaction.rollback() if transaction.is_active else None)
            with Session(connection) as given:
                given.add_all(rows)
                given.commit()
            session = Session(connection)
            stack.callback(session.close)
            return session

        yield make


def written(session: Session, row: DeclarativeBase) -> None:
    session.add(row)
    session.flush()


def test_a_row_is_locked_or_missing(made: Made) -> None:
    session = made(Shelf(id="a", items=1))
    assert not session.holds("a")
    row = session.lock(Shelf, "a")
    assert row is not None
    assert row.items == 1
    assert session.lock(Shelf, "a") is row
    assert session.lock(Shelf, "b") is None
    assert (session.holds("a"), session.holds("b")) == (True, False)


def test_a_row_that_is_read_is_not_held(made: Made) -> None:
    session = made(Shelf(id="a", items=1))
    row = session.get(Shelf, "a")
    assert row is not None
    assert not session.holds("a")
    assert session.get(Shelf, "b") is None


def test_a_new_row_is_held_and_found_and_has_its_defaults(made: Made) -> None:
    session = made()
    session.add(Shelf(id="a", items=1))
    session.add_all([Place(room="hall", number=7)])
    assert (session.holds("a"), session.holds("hall:7")) == (True, True)
    assert session.lock(Place, ("hall", 7)) is not None
    session.flush()
    row = session.lock(Shelf, "a")
    assert row is not None
    assert (row.room, row.locked) == ("hall", False)


def test_a_row_that_is_deleted_is_missing_and_stays_held(made: Made) -> None:
    session = made(Shelf(id="a", items=1))
    row = session.lock(Shelf, "a")
    session.delete(row)
    assert session.lock(Shelf, "a") is None
    assert session.holds("a")


def test_what_the_table_does_not_allow_is_refused(made: Made) -> None:
    session = made(Shelf(id="a", items=1))
    session.lock(Shelf, "b")
    with pytest.raises((SessionMisused, IntegrityError), match="items"):
        written(session, Shelf(id="b"))


def test_a_second_row_of_one_key_is_refused(made: Made) -> None:
    session = made(Shelf(id="a", items=1))
    with pytest.raises((SessionMisused, IntegrityError), match="exists"):
        written(session, Shelf(id="a", items=2))


def test_an_event_is_published_by_what_lends_the_session(made: Made) -> None:
    session = made()
    with pytest.raises(SessionMisused, match="in a handler or in a request"):
        session.publish(Filled(id="a"))
    published: list[Event] = []
    session.publisher = published.append
    session.publish(Filled(id="a"))
    assert published == [Filled(id="a")]


CHANGES: dict[str, Callable[[Any], object]] = {
    "a key": lambda page: page.counts.update(tea=5),
    "an item": lambda page: page.words.append("z"),
    "a key of a key": lambda page: page.tree["a"].update(b=2),
    "a list in a key": lambda page: page.tree["list"].append(3),
    "a new key, then in it": lambda page: page.tree.setdefault("new", {}).update(c=1),
    "a key that goes": lambda page: page.counts.pop("cup"),
    "in the order of another": lambda page: page.words.sort(),
    "more": lambda page: page.counts.__ior__({"x": 1}),
    "by its own type": lambda page: page.own["deep"].append({"er": 1}),
    "by another tracker": lambda page: page.theirs.update(a=1),
}


def page() -> Page:
    tree = {"a": {"b": 1}, "list": [1, {"two": 2}]}
    return Page(id="p", counts={"cup": 1}, words=["b", "a"], tree=tree, own={"deep": [1]}, theirs={})


def again(session: Session, row: Any) -> Any:
    """Return the row as it was written."""
    session.flush()
    if not isinstance(session, MemorySession):
        session.expire(row)
        return row
    (copy,) = thawed_rows(session, type(row))
    return copy


def thawed_rows(session: MemorySession, model: type[DeclarativeBase]) -> list[DeclarativeBase]:
    scene = Scene(SHELVES)
    scene._rows = session.frozen()
    return scene.rows(model)


def content(row: Page) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("counts", "words", "tree", "own", "theirs")}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", ["lock", "get"])
@pytest.mark.parametrize("new", [False, True], ids=["old row", "new row"])
def test_what_is_changed_in_place_is_written(made: Made, change: str, read: str, new: bool) -> None:
    session = made() if new else made(page())
    if new:
        written(session, page())
    row: Any = session.lock(Page, "p") if read == "lock" else session.get(Page, "p")
    CHANGES[change](row)
    expected = deepcopy(content(row))
    assert expected != content(page())
    assert content(again(session, row)) == expected


def test_a_change_in_place_is_written_although_another_column_changes_too(made: Made) -> None:
    session = made(page())
    row: Any = session.lock(Page, "p")
    row.words = ["x"]
    row.tree["a"]["b"] = 7
    row = again(session, row)
    assert (row.words, row.tree["a"]) == (["x"], {"b": 7})


def test_a_value_that_was_given_may_be_changed_until_it_is_written(made: Made) -> None:
    session = made(page())
    row: Any = session.lock(Page, "p")
    words, inner = ["x"], {"a": 1}
    row.words = words
    row.tree["inner"] = inner
    session.add(other := Page(id="q", counts=(counts := {"a": 1})))
    words.append("y")
    inner["b"] = 2
    counts["c"] = 3
    session.flush()
    assert (row.words, row.tree["inner"], other.counts) == (["x", "y"], {"a": 1, "b": 2}, {"a": 1, "c": 3})


def test_what_a_row_held_before_a_flush_is_still_its_own(made: Made) -> None:
    session = made(page())
    row: Any = session.lock(Page, "p")
    tree, inner = row.tree, row.tree["a"]
    inner["b"] = 2
    row.tree["taken"] = row.words
    session.flush()
    inner["b"] = 3
    tree["c"] = 4
    row.tree["taken"].append("t")
    row = again(session, row)
    assert (row.tree["a"], row.tree["c"], row.tree["taken"]) == ({"b": 3}, 4, ["b", "a", "t"])


def test_a_copy_of_a_value_is_a_plain_one(made: Made) -> None:
    session = made(page())
    row: Any = session.lock(Page, "p")
    for copy in (deepcopy(row.tree), row.counts.copy(), row.words[:], row.counts | {}):
        assert type(copy) in (dict, list)
    assert type(deepcopy(row.tree)["a"]) is dict


def test_relationships_are_read_or_refused(made: Made) -> None:
    session = made(Parent(id="a"), Kid(id="k", parent_id="a"))
    row: Any = session.lock(Parent, "a")
    kid: Any = session.get(Kid, "k")
    if isinstance(session, MemorySession):
        for use in (
            lambda: row.kids,
            lambda: kid.parent,
            lambda: setattr(kid, "parent", row),
            lambda: session.add(Parent(id="b", kids=[Kid(id="l")])),
            lambda: session.add(Kid(id="l", parent=row)),
            lambda: session.add(Kid(id="l", parent=Parent(id="b"))),
        ):
            with pytest.raises(SessionMisused, match=r"have no relationships: .*`trial`"):
                use()
        return
    assert [kid.id for kid in row.kids] == ["k"]
    assert kid.parent is row


def test_defaults_are_those_of_the_columns(made: Made) -> None:
    session = made()
    draft: Any = Draft()
    page: Any = Page(id="p")
    session.add_all([draft, page])
    assert (draft.state, draft.code, page.words) == (None, None, None)
    session.flush()
    assert isinstance(draft.code, UUID)
    assert (draft.state, draft.room, draft.places) == ("new", "hall", 7)
    assert content(page) == {"counts": {}, "words": [], "tree": {}, "own": {}, "theirs": {}}
    if isinstance(session, MemorySession):
        with pytest.raises(SessionMisused, match=r"Draft.made_at .*database"):
            assert draft.made_at
    else:
        assert draft.made_at


def test_what_a_new_row_lacks_is_there_when_it_is_read(made: Made) -> None:
    session = made()
    session.add(Shelf(id="a", items=1))
    row = session.get(Shelf, "a")
    assert row is not None
    assert row.room == "hall"


def test_keys_are_generated(made: Made) -> None:
    session = made()
    session.add_all([Draft(), Draft()])
    session.flush()
    rows: list[Any] = [session.lock(Draft, 1), session.lock(Draft, 2), session.lock(Draft, 3)]
    if not isinstance(session, MemorySession):  # the sequence remembers what was rolled back
        return
    assert [row and row.number for row in rows] == [1, 2, None]
    assert (session.holds("2"), session.holds("3")) == (True, False)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Place, "hall"),
        (Place, ("hall",)),
        (Place, ("hall", "7")),
        (Draft, "7"),
        (Shelf, 5),
        (Shelf, ("5",)),
        (Draft, (7,)),
        (Place, (("hall",), 7)),
    ],
)
def test_a_key_of_another_form_is_refused(made: Made, model: type[DeclarativeBase], key: object) -> None:
    session = made(Place(room="hall", number=7), Draft(number=7), Shelf(id="5", items=1))
    with pytest.raises((SessionMisused, DBAPIError), match=r"primary key|another form|cannot be cast"):
        session.lock(model, key)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("where", ["text", "JSON", "key"])
def test_text_that_a_database_cannot_store_is_refused(made: Made, text: str, where: str) -> None:
    row = {
        "text": Shelf(id="a", items=1, room=text),
        "JSON": Page(id="p", tree={"deep": [{text: 1}]}),
        "key": Shelf(id=text, items=1),
    }[where]
    with pytest.raises((SessionMisused, DBAPIError, StatementError, UnicodeEncodeError)):
        written(made(), row)


def test_none_in_a_column_that_must_not_be_null_is_refused(made: Made) -> None:
    session = made(Shelf(id="a", items=1))
    row: Any = session.lock(Shelf, "a")
    row.items = None
    with pytest.raises((SessionMisused, IntegrityError), match="items"):
        session.flush()


def test_a_row_that_is_no_row_is_not_deleted(made: Made) -> None:
    with pytest.raises((SessionMisused, InvalidRequestError), match=r"not persisted|no row"):
        made().delete(Shelf(id="a", items=1))


@pytest.fixture(params=["memory", "PostgreSQL"])
def place(request: pytest.FixtureRequest) -> Scene:
    """A place for events, with shelf `a`."""
    if request.param == "memory":
        return Scene(SHELVES, Shelf(id="a", items=1))
    trial: MakeTrial = request.getfixturevalue("trial")
    made = trial(SHELVES, Base)
    made.given(Shelf(id="a", items=1))
    return made  # type: ignore[return-value]  # it has the same methods


def test_a_row_may_be_added_and_deleted_in_one_batch(place: Scene) -> None:
    assert place.when(Filled(id="b", how="add"), Filled(id="b", how="delete")) == [Done(id="b")]
    with pytest.raises(LookupError):
        place.row(Shelf, "b")


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("delete what was read", NotOwned),
        ("large", Reject),
        ("NUL", (SessionMisused, DBAPIError)),
        ("no items", (SessionMisused, IntegrityError)),
    ],
)
def test_what_a_worker_would_be_refused_is_refused(place: Scene, how: str, error: Any) -> None:
    with pytest.raises(error):
        place.when(Filled(id="b" if how == "NUL" else "a", how=how))


def test_changes_of_the_schedule_find_what_waits(place: Scene) -> None:
    def waits() -> list[tuple[str, Event]]:
        return [(name, waiting.event) for name, waiting in place.scheduled.items()]

    def tries(*how: str) -> int:
        assert place.when(*[Filled(id="a", how=one) for one in how]) == []
        return place.row(Shelf, "a").items

    assert (tries("cancel"), waits()) == (0, [])
    assert (tries("schedule"), waits()) == (0, [("a", Done(id="a", text="schedule"))])
    assert (tries("schedule anew"), waits()) == (1, [("a", Done(id="a", text="schedule anew"))])
    with pytest.raises(Reject, match="after all"):
        tries("schedule in vain")
    assert (tries("cancel"), waits()) == (1, [])
    assert (tries("schedule", "cancel", "cancel"), waits()) == (0, [])


def test_an_event_that_is_not_consumed_is_refused(place: Scene) -> None:
    with pytest.raises(LookupError, match=r"shelves does not consume Done\.v1: it has no handler for it"):
        place.when(Done(id="a"))


def test_rows_in_memory_are_given_as_they_were() -> None:
    scene = Scene(SHELVES, page())
    (row,) = scene.rows(Page)
    assert content(row) == content(scene.row(Page, "p")) == content(page())
