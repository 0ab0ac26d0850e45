"""A list is read page by page, newest first; rows that come meanwhile shift no page."""

from collections.abc import Iterator

import pytest
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ForeignKey, Select, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shared import Uuid
from shared.errors import SessionMisused
from shared.http import After, Limit, Transaction


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    about: Mapped[str] = mapped_column(default="tea")


class Seat(Base):
    __tablename__ = "seat"

    room: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Parent(Base):
    __tablename__ = "parent"

    id: Mapped[int] = mapped_column(primary_key=True)
    kids: Mapped[list["Kid"]] = relationship(back_populates="parent")


class Kid(Base):
    __tablename__ = "kid"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("parent.id"))
    parent: Mapped[Parent | None] = relationship(back_populates="kids")


POSTGRES = create_engine("postgresql+psycopg://").dialect


@pytest.fixture
def session() -> Iterator[Transaction]:
    """In SQLite: the statement needs nothing of PostgreSQL."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Transaction(engine) as session:
        session.add_all(Note(id=number) for number in range(1, 7))
        yield session
    engine.dispose()


def ids(notes: list[Note]) -> list[int]:
    return [note.id for note in notes]


def test_the_pages_hold_each_row_once(session: Transaction) -> None:
    first = session.page(select(Note), None, 3)
    assert (ids(first.rows), first.next) == ([6, 5, 4], 4)
    session.add(Note(id=7))
    second = session.page(select(Note), first.next, 3)
    assert (ids(second.rows), second.next) == ([3, 2, 1], None)


def test_no_page_is_empty_but_that_of_an_empty_list(session: Transaction) -> None:
    assert session.page(select(Note), None, 6).next is None
    assert session.page(select(Note).where(Note.about == "coffee"), None, 6) == ([], None)


@pytest.mark.parametrize(
    ("own", "named"),
    [
        (select(Note).order_by(Note.about), "an `order_by`"),
        (select(Note).limit(2), "a `limit`"),
        (select(Note).offset(1), "an `offset`"),
        (select(Note).fetch(2), "a `fetch`"),
    ],
    ids=["order_by", "limit", "offset", "fetch"],
)
def test_a_list_with_an_order_or_bounds_of_its_own_is_refused(
    session: Transaction, own: Select[Note], named: str
) -> None:
    with pytest.raises(TypeError, match=f"newest first, and the statement has {named}"):
        session.page(own, None, 3)


@pytest.mark.parametrize(
    ("wanted", "once"),
    [
        (select(Note), False),
        (select(Note).join(Seat, Seat.number == Note.id), True),
        (select(Note).where(Seat.number == Note.id), True),
        (select(Note).where(select(Seat).where(Seat.number == Note.id).exists()), False),
    ],
    ids=["alone", "join", "two tables", "exists"],
)
def test_a_row_that_a_join_finds_twice_is_on_a_page_once(
    session: Transaction, monkeypatch: pytest.MonkeyPatch, wanted: Select[Note], once: bool
) -> None:
    """Shown by the statement: SQLite has no DISTINCT ON. `tests/integration/api` has it in PostgreSQL."""
    sent: list[str] = []

    def scalars(statement: Select[Note]) -> list[Note]:
        sent.append(str(statement.compile(dialect=POSTGRES)))
        return []

    monkeypatch.setattr(session, "scalars", scalars)
    session.page(wanted, 4, 3)
    assert ("DISTINCT ON (note.id)" in sent[0]) is once


def test_what_is_added_is_the_row_alone(session: Transaction) -> None:
    with pytest.raises(SessionMisused, match=r"without its `kids`: leave them out, and set them on the Parent that it"):
        session.lock_or_add(Parent(id=1, kids=[Kid(id=1)]))
    with pytest.raises(SessionMisused, match="without its `parent`"):
        session.lock_or_add(Kid(id=1, parent=Parent(id=1)))


def test_a_key_of_several_columns_is_refused(session: Transaction) -> None:
    with pytest.raises(TypeError, match="newest first, and Seat has a key of several columns"):
        session.page(select(Seat), None, 3)


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_has_bounds(limit: int) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Limit).validate_python(limit)


def test_a_page_begins_after_a_key_of_the_rows_type() -> None:
    after = TypeAdapter[str | None](After[Uuid])
    assert after.validate_python(None) is None
    with pytest.raises(ValidationError):
        after.validate_python("7")
