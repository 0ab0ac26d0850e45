"""A flush writes as the foreign keys require, in any order of classes' names and added rows.

The models here have no relationships, unless a test says so: only the tables know the references.
"""

import gc
import weakref
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import ARRAY, Engine, ForeignKey, ForeignKeyConstraint, Text, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from dev.servers import Postgres
from shared.errors import SessionMisused
from shared.session import Session
from shared.testing import databases

PAIRS = list(permutations(("Alpha", "Box", "Lab", "Zeta"), 2))


class Base(DeclarativeBase):
    pass


class Node(Base):
    """A row that refers to its own table."""

    __tablename__ = "node"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    above: Mapped[int | None] = mapped_column(ForeignKey("node.id"))
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """A type that keeps the rows from going in one statement."""


class Egg(Base):
    """Half of a circle."""

    __tablename__ = "egg"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hen: Mapped[int | None] = mapped_column(ForeignKey("hen.id"))


class Hen(Base):
    __tablename__ = "hen"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    egg: Mapped[int | None] = mapped_column(ForeignKey("egg.id"))


class Answer(Base):
    """Half of a circle that PostgreSQL checks only at the commit."""

    __tablename__ = "answer"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    question: Mapped[int] = mapped_column(ForeignKey("question.id", deferrable=True, initially="DEFERRED"))


class Question(Base):
    __tablename__ = "question"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    answer: Mapped[int] = mapped_column(ForeignKey("answer.id"))


class Staff(Base):
    """A hierarchy of two tables; one of them refers to the other twice."""

    __tablename__ = "staff"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text)

    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "staff"}  # noqa: RUF012


class Boss(Staff):
    __tablename__ = "boss"

    id: Mapped[int] = mapped_column(ForeignKey("staff.id"), primary_key=True)
    deputy: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))

    __mapper_args__ = {"polymorphic_identity": "boss", "inherit_condition": id == Staff.id}  # noqa: RUF012


class Area(Base):
    """A row with a key of two columns, to which others refer."""

    __tablename__ = "z_area"

    country: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Address(Base):
    __tablename__ = "address"
    __table_args__ = (ForeignKeyConstraint(["country", "area"], ["z_area.country", "z_area.number"]),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    country: Mapped[str] = mapped_column(Text)
    area: Mapped[int]


class Article(Base):
    """A row with relationships, one of which breaks the circle itself."""

    __tablename__ = "article"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    best: Mapped[int | None] = mapped_column(ForeignKey("comment.id"))
    comments: Mapped[list["Comment"]] = relationship(foreign_keys="Comment.article", cascade="all, delete-orphan")
    best_comment: Mapped["Comment | None"] = relationship(foreign_keys=best, post_update=True)


class Comment(Base):
    __tablename__ = "comment"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    article: Mapped[int] = mapped_column(ForeignKey("article.id"))


def pair(child_name: str, parent_name: str) -> tuple[type[DeclarativeBase], Any, Any]:
    """Make two classes; one's table refers to the other's."""

    class Own(DeclarativeBase):
        pass

    suffix = f"of_{child_name}_to_{parent_name}".lower()
    parent: Any = type(
        parent_name,
        (Own,),
        {"__tablename__": f"{parent_name.lower()}_{suffix}", "id": mapped_column(Text, primary_key=True)},
    )
    child: Any = type(
        child_name,
        (Own,),
        {
            "__tablename__": f"{child_name.lower()}_{suffix}",
            "id": mapped_column(Text, primary_key=True),
            "refers_to": mapped_column(ForeignKey(parent.__table__.c.id), nullable=True),
        },
    )
    return Own, child, parent


@pytest.fixture(scope="module")
def engine(postgres: Postgres) -> Iterator[Engine]:
    with databases.created(postgres, "flushing", Base.metadata) as engine:
        yield engine


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session, session.begin() as transaction:
        yield session
        transaction.rollback()


@pytest.mark.parametrize("child_first", [True, False])
@pytest.mark.parametrize(("child_name", "parent_name"), PAIRS)
def test_every_pair_of_names_in_every_order(
    engine: Engine, child_name: str, parent_name: str, child_first: bool
) -> None:
    own, child, parent = pair(child_name, parent_name)
    own.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        rows = [kind for n in range(3) for kind in (child(id=str(n), refers_to=str(n)), parent(id=str(n)))]
        session.add_all(rows if child_first else rows[::-1])
    with Session(engine) as session, session.begin():
        moved, alone, gone = (session.get_one(child, str(n)) for n in range(3))
        old = [session.get_one(parent, "1"), session.get_one(parent, "2")]
        # In one flush: one changes to a new row, one lets go of a row that is deleted, one is deleted with its row.
        moved.refers_to, alone.refers_to = "new", None
        for row in [gone, *old] if child_first else [*old, gone]:
            session.delete(row)
        session.add(parent(id="new"))
    with Session(engine) as session:
        found = session.execute(select(child.id, child.refers_to).order_by(child.id)).all()
        assert found == [("0", "new"), ("1", None)]
        assert set(session.scalars(select(parent.id))) == {"0", "new"}
    own.metadata.drop_all(engine)


@pytest.mark.parametrize("tags", [None, ["one", "two"]])
@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_a_table_that_refers_to_itself(session: Session, order: tuple[int, ...], tags: list[str] | None) -> None:
    above = {1: None, 2: 1, 3: 2}
    nodes = {number: Node(id=number, above=above[number], tags=tags) for number in order}
    session.add_all(nodes.values())
    session.flush()
    session.add(Node(id=0, tags=tags))
    nodes[1].above = 0  # a row that is there refers to one that is new
    session.flush()
    for number in order:
        session.delete(nodes[number])
    session.flush()
    assert list(session.scalars(select(Node.id))) == [0]


def test_tables_that_refer_to_each_other(session: Session) -> None:
    session.add_all([Egg(id=3, hen=2), Hen(id=2, egg=2), Egg(id=2, hen=1), Hen(id=1, egg=1), Egg(id=1)])
    session.flush()
    for row in [*session.scalars(select(Hen).order_by(Hen.id)), *session.scalars(select(Egg).order_by(Egg.id))]:
        session.delete(row)
    session.flush()
    assert session.scalar(select(func.count()).select_from(Egg)) == 0


def test_rows_that_refer_to_each_other_need_a_key_that_is_looked_at_late(session: Session) -> None:
    session.add_all([Answer(id=1, question=1), Question(id=1, answer=1)])
    session.flush()
    session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    session.add_all([Egg(id=1, hen=1), Hen(id=1, egg=1)])
    with pytest.raises(SessionMisused, match="DEFERRABLE INITIALLY DEFERRED"):
        session.flush()


def test_a_row_may_refer_to_itself(session: Session) -> None:
    session.add(Node(id=1, above=1))
    session.flush()
    session.delete(session.get_one(Node, 1))
    session.flush()


def test_subclasses_with_tables_of_their_own(session: Session) -> None:
    session.add_all([Boss(id=1, deputy=2), Boss(id=2, deputy=3), Staff(id=3)])
    session.flush()
    for row in session.scalars(select(Staff).order_by(Staff.id)):
        session.delete(row)
    session.flush()


def test_a_key_of_several_columns(session: Session) -> None:
    session.add_all([Address(id=1, country="it", area=7), Area(country="it", number=7)])
    session.flush()
    session.delete(session.get_one(Area, ("it", 7)))
    session.delete(session.get_one(Address, 1))
    session.flush()


def test_relationships_do_what_they_did(session: Session) -> None:
    article = Article(id=1, comments=[Comment(id=1), Comment(id=2)])
    article.best_comment = article.comments[1]
    session.add(article)
    session.flush()
    assert session.scalar(select(Article.best)) == 2
    session.delete(article)
    session.flush()
    assert session.scalar(select(func.count()).select_from(Comment)) == 0


def test_a_flush_leaves_no_row_to_the_garbage_collector(engine: Engine) -> None:
    """A batch of 1,000 events would wait for it in memory, and it would go through all of them."""
    gc.disable()
    try:
        with Session(engine) as session:
            session.add_all([Node(id=1), Node(id=2, above=1)])
            rows = [weakref.ref(row) for row in session.new]
            session.flush()
            session.rollback()
        del session
        assert [row() for row in rows] == [None, None]
    finally:
        gc.enable()
