"""Rows written in one statement are those that the driver would have written one by one."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Engine,
    LargeBinary,
    Numeric,
    String,
    Text,
    TypeDecorator,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from dev.servers import Postgres
from shared.orm import bulk
from shared.session import Session


class Colour(StrEnum):
    RED = "RED"
    BLUE = "BLUE"


class Size(Enum):
    SMALL = 1
    LARGE = 2


class Upper(TypeDecorator[str]):
    impl = String(8)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return value and value.upper()


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 (SQLAlchemy's own name)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int | None] = mapped_column(BigInteger)
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    ratio: Mapped[float | None]
    flag: Mapped[bool | None]
    short: Mapped[str | None] = mapped_column(String(5, collation="C"))
    shout: Mapped[str | None] = mapped_column(Upper)
    colour: Mapped[str | None] = mapped_column(Text)
    size: Mapped[Size | None]
    document: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    raw: Mapped[bytes | None] = mapped_column(LargeBinary)
    other: Mapped[uuid.UUID | None]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Tagged(Base):
    __tablename__ = "tagged"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))


class Numbered(Base):
    __tablename__ = "numbered"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    name: Mapped[str] = mapped_column(Text)

    __mapper_args__ = {"version_id_col": version, "eager_defaults": False}  # noqa: RUF012 (SQLAlchemy's own name)


@pytest.fixture(scope="module")
def engine(postgres: Postgres) -> Iterator[Engine]:
    name = f"bulk_{uuid.uuid4().hex[:12]}"
    postgres.create_database(name)
    engine = create_engine(postgres.dsn(name).replace("postgresql:", "postgresql+psycopg:"))
    bulk.install(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()
    postgres.drop_database(name)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the statements that were left to the driver."""
    left: list[str] = []
    executemany = psycopg.Cursor.executemany

    def noted(cursor: Any, query: str, *arguments: Any, **more: Any) -> None:
        left.append(query)
        executemany(cursor, query, *arguments, **more)

    monkeypatch.setattr(psycopg.Cursor, "executemany", noted)
    return left


def things(count: int) -> list[Thing]:
    return [
        Thing(
            id=f"{n:04d}-{uuid.uuid4()}",
            number=None if n % 7 == 0 else (-1) ** n * 10**n % 10**15,
            price=Decimal(n) / 4,
            ratio=n / 3,
            flag=n % 2 == 0,
            short="{\"' \\"[: n % 6],
            shout="abc",
            colour=Colour.RED if n % 3 else None,
            size=Size.LARGE,
            document={"n": n, "none": None, "list": [1, "a"]} if n % 5 else None,
            raw=bytes(range(n % 9)),
            other=uuid.uuid4(),
            at=datetime.now(UTC).replace(tzinfo=None),
        )
        for n in range(count)
    ]


COLUMNS = [column.key for column in Thing.__table__.columns]


def values(thing: Thing) -> list[object]:
    return [getattr(thing, name) for name in COLUMNS]


def test_new_rows_are_what_was_added(engine: Engine, driver: list[str]) -> None:
    added = things(60)
    with Session(engine) as session, session.begin():
        session.add_all(added)
    with Session(engine) as session:
        found = {row.id: values(row) for row in session.scalars(select(Thing))}
    for thing in added:
        thing.shout = "ABC"
        assert found[thing.id] == values(thing)
    assert driver == []


def test_columns_that_are_all_null_or_left_to_the_database(engine: Engine, driver: list[str]) -> None:
    added = [Thing(id=str(uuid.uuid4())) for _ in range(3)]
    with Session(engine) as session, session.begin():
        session.add_all(added)
        session.flush()
        assert all(thing.at is not None for thing in added)
        assert [thing.document for thing in added] == [None] * 3
    assert driver == []


def test_changed_rows_are_changed_and_no_others(engine: Engine, driver: list[str]) -> None:
    added = things(20)
    with Session(engine) as session, session.begin():
        session.add_all(added)
    with Session(engine) as session, session.begin():
        session.lock_all(Thing, [thing.id for thing in added[:10]])
        for n, thing in enumerate(added[:10]):
            row = session.lock(Thing, thing.id)
            assert row is not None
            row.number, row.colour, row.document = n + 1000, Colour.BLUE, {"changed": n}
    with Session(engine) as session:
        found = {row.id: row for row in session.scalars(select(Thing))}
    assert [found[thing.id].number for thing in added[:10]] == list(range(1000, 1010))
    assert [found[thing.id].document for thing in added[:10]] == [{"changed": n} for n in range(10)]
    assert [values(found[thing.id])[1:6] for thing in added[10:]] == [values(thing)[1:6] for thing in added[10:]]
    assert driver == []


@pytest.mark.parametrize("column", ["short", "shout"])
def test_a_text_that_is_too_long_is_refused_and_not_cut(engine: Engine, column: str) -> None:
    with Session(engine) as session:
        session.add_all([Thing(id=str(uuid.uuid4()), **{column: "123456789"}) for _ in range(2)])
        with pytest.raises(DataError, match="too long"):
            session.flush()


def test_a_row_that_somebody_else_has_changed_is_noticed(engine: Engine, driver: list[str]) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([Numbered(id=n, name="old") for n in range(4)])
    with Session(engine) as session, Session(engine) as other:
        rows = session.scalars(select(Numbered).order_by(Numbered.id)).all()
        other.execute(update(Numbered).where(Numbered.id == 2).values(version=7))
        other.commit()
        for row in rows:
            row.name = "new"
        with pytest.raises(StaleDataError, match=r"4 row.*3 were matched"):
            session.flush()
    assert driver == []


def test_arrays_are_left_to_the_driver(engine: Engine, driver: list[str]) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([Tagged(id="a", tags=["x", "y"]), Tagged(id="b", tags=[])])
    with Session(engine) as session:
        assert {row.id: row.tags for row in session.scalars(select(Tagged))} == {"a": ["x", "y"], "b": []}
    assert len(driver) == 1


def test_kinds_that_differ_are_left_to_the_driver(engine: Engine, driver: list[str]) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2)]
    with engine.begin() as connection:
        connection.execute(
            insert(Thing),
            [{"id": ids[0], "price": 1, "number": 1}, {"id": ids[1], "price": Decimal("1.5"), "number": 2}],
        )
        found = connection.execute(select(Thing.price).where(Thing.id.in_(ids)).order_by(Thing.number)).scalars().all()
    assert found == [Decimal(1), Decimal("1.5")]
    assert len(driver) == 1


def test_one_row_changed_twice_is_left_to_the_driver(engine: Engine, driver: list[str]) -> None:
    key = str(uuid.uuid4())
    with engine.begin() as connection:
        connection.execute(insert(Thing), {"id": key, "number": 0})
        change = update(Thing).where(Thing.id == bindparam("key")).values(number=bindparam("new"))
        connection.execute(change, [{"key": key, "new": 1}, {"key": key, "new": 2}])
        assert connection.execute(select(Thing.number).where(Thing.id == key)).scalar_one() == 2
    assert len(driver) == 1


def test_what_is_more_than_values_is_left_to_the_driver(engine: Engine, driver: list[str]) -> None:
    key = str(uuid.uuid4())
    with engine.begin() as connection:
        rows = [{"id": key, "number": 1}, {"id": key, "number": 2}]
        connection.execute(upsert(Thing).on_conflict_do_nothing(), rows)
        more = update(Thing).where(Thing.id == bindparam("key")).values(number=Thing.number + bindparam("more"))
        connection.execute(more, [{"key": key, "more": 5}, {"key": key, "more": 5}])
        connection.execute(
            insert(Thing).values(id=bindparam("name"), number=func.length(bindparam("word"))),
            [{"name": f"{key}-1", "word": "three"}, {"name": f"{key}-2", "word": "two"}],
        )
        assert connection.execute(select(Thing.number).where(Thing.id == key)).scalar_one() == 11
    assert len(driver) == 3


@pytest.mark.parametrize(
    "change",
    ["INSERT INTO thing (id, number) VALUES (:id, :number)", "UPDATE thing SET number=:number WHERE thing.id = :id"],
)
def test_a_text_says_nothing_of_types_and_is_left_to_the_driver(engine: Engine, driver: list[str], change: str) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2)]
    with engine.begin() as connection:
        if change.startswith("UPDATE"):
            connection.execute(insert(Thing), [{"id": id_, "number": 0} for id_ in ids])
        connection.execute(text(change), [{"id": ids[0], "number": 1}, {"id": ids[1], "number": 2}])
        found = connection.execute(select(Thing.number).where(Thing.id.in_(ids)).order_by(Thing.number)).scalars().all()
    assert found == [1, 2]
    assert len(driver) == 1


def test_a_batch_is_one_statement(engine: Engine) -> None:
    sent: list[str] = []
    with Session(engine) as session, session.begin():
        cursor = session.connection().connection.driver_connection
        assert isinstance(cursor, psycopg.Connection)
        session.add_all(things(500))
        event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2]), once=True)
        session.flush()
    assert len(sent) == 1
    assert sent[0].startswith("INSERT INTO thing")
