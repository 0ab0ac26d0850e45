"""Rows in memory behave for a handler as with the real session on a PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Event, Service, Session, Tables
from shared.errors import SessionMisused
from shared.testing import MemorySession


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


class Filled(Event, topic="shelves", key="id"):
    id: str


SHELVES = Service("shelves")
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
    with pytest.raises((AssertionError, IntegrityError)):
        written(session, Shelf(id="a", items=2))


def test_an_event_is_published_by_what_lends_the_session(made: Made) -> None:
    session = made()
    with pytest.raises(SessionMisused, match="in a handler or in a request"):
        session.publish(Filled(id="a"))
    published: list[Event] = []
    session.publisher = published.append
    session.publish(Filled(id="a"))
    assert published == [Filled(id="a")]
