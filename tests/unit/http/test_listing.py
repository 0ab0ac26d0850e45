"""A list is read page by page, newest first; rows that come meanwhile shift no page."""

from collections.abc import Iterator

import pytest
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Uuid
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


def test_a_list_with_an_order_of_its_own_is_refused(session: Transaction) -> None:
    with pytest.raises(TypeError, match="newest first, and the statement has an `order_by`"):
        session.page(select(Note).order_by(Note.about), None, 3)


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
