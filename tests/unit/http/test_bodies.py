"""An answer is filled in from a row; a field that no column can fill in is refused when the class is made."""

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shared.http import RequestBody, ResponseBody


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list["Book"]] = relationship(order_by="Book.number")


class Book(Base):
    __tablename__ = "book"

    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelf.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Part(Base):
    __tablename__ = "part"

    id: Mapped[int] = mapped_column(primary_key=True)
    part_of: Mapped[int | None] = mapped_column(ForeignKey("part.id"))
    parts: Mapped[list["Part"]] = relationship()


class Title(RequestBody):
    title: str


class PartResponse(ResponseBody, of=Part):
    id: int
    parts: list["PartResponse"]


SHELF = Shelf(id=1, books=[Book(number=1, title="Emma"), Book(number=2, title="Dune")])


def test_the_rows_of_a_relationship_are_bodies_of_the_answer() -> None:
    class ShelfResponse(ResponseBody, of=Shelf):
        id: int
        books: list[Title]

    assert ShelfResponse.of(SHELF).model_dump() == {"id": 1, "books": [{"title": "Emma"}, {"title": "Dune"}]}


def test_an_answer_may_hold_its_own_kind() -> None:
    assert PartResponse.of(Part(id=1, parts=[Part(id=2, parts=[])])).model_dump() == {
        "id": 1,
        "parts": [{"id": 2, "parts": []}],
    }


def test_a_field_that_is_given_is_not_looked_for() -> None:
    class ShelfResponse(ResponseBody, of=Shelf, given=("books", "floor")):
        books: list[str]
        floor: int

    assert ShelfResponse.of(SHELF, books=["Emma"], floor=3).model_dump() == {"books": ["Emma"], "floor": 3}


def test_a_field_that_the_table_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match=r"ShelfResponse has the field floor, and Shelf has no such column: correct it"):

        class ShelfResponse(ResponseBody, of=Shelf):
            floor: int


def test_a_field_that_the_rows_of_a_relationship_lack_is_refused() -> None:
    class Wrong(RequestBody):
        author: str

    with pytest.raises(TypeError, match=r"Wrong has the field author, and Book has .* name books in `given=\(...\)`"):

        class ShelfResponse(ResponseBody, of=Shelf):
            books: list[Wrong] | None
