"""Every line of docs/session.md, on a real PostgreSQL. Its line, as a parameter, names each test.

Each gets a session as a handler has it: lent, in a transaction, with row `a` and area `("eu", 7)` in the database.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine, ForeignKey, Text, delete, event, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from dev.servers import Postgres
from shared.errors import SessionMisused
from shared.events import Event
from shared.models import Tables
from shared.scheduling import Change
from shared.session import Session
from shared.testing import databases

PAGE = (Path(__file__).parents[2] / "docs" / "session.md").read_text()
LINES = [
    line.split(" | ")[0].removeprefix("| ") for line in re.findall(r"^\| `.*", PAGE.partition("\n## ")[0], re.MULTILINE)
]


class Base(DeclarativeBase):
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 (SQLAlchemy's own name)


class Account(Base):
    __tablename__ = "account"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    balance: Mapped[int] = mapped_column(default=0)
    opened: Mapped[str] = mapped_column(Text, server_default=text("'today'"))
    entries: Mapped[list["Entry"]] = relationship()


class Entry(Base):
    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(ForeignKey("account.id"))


class Area(Base):
    __tablename__ = "area"

    country: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    people: Mapped[int]


class Shelf(Tables, Base):
    __tablename__ = "shelf"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    lines: Mapped[Any] = mapped_column(JSONB)


@pytest.fixture(scope="module")
def engine(postgres: Postgres) -> Iterator[Engine]:
    with databases.created(postgres, "session", Base.metadata) as engine:
        yield engine


class Case(NamedTuple):
    """The parts with which a line is tried."""

    session: Session
    engine: Engine
    statements: list[str]
    """The statements sent since `clear`."""

    def locked(self, key: str = "a") -> bool:
        """Return whether another transaction cannot lock the account."""
        return not self._free("SELECT 1 FROM account WHERE id = :key FOR UPDATE NOWAIT", {"key": key})

    def area_locked(self) -> bool:
        return not self._free("SELECT 1 FROM area FOR UPDATE NOWAIT", {})

    def _free(self, statement: str, values: dict[str, Any]) -> bool:
        with self.engine.connect() as other:
            try:
                other.execute(text(statement), values)
            except OperationalError:
                return False
            return True

    def elsewhere(self, statement: str) -> None:
        """Run statements in another transaction."""
        with self.engine.begin() as other:
            other.execute(text(statement))


@pytest.fixture
def case(engine: Engine) -> Iterator[Case]:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE account, entry, area, shelf"))
        connection.execute(text("INSERT INTO account VALUES ('a', 1), ('b', 2)"))
        connection.execute(text("INSERT INTO area VALUES ('eu', 7, 1), ('eu', 8, 2)"))
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    with Session(engine) as session, session.begin() as transaction:
        with session.lent():
            yield Case(session, engine, statements)
        transaction.rollback()
    event.remove(engine, "before_cursor_execute", note)


class Opened(Event, topic="accounts", key="id"):
    id: str


TRIED: dict[str, list[Callable[[Case], None]]] = {}


def line(begins: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Note which line of the page a function tries."""

    def noted(function: Callable[[Case], None]) -> Callable[[Case], None]:
        TRIED.setdefault(begins, []).append(function)
        return function

    return noted


@line("`session.publish(event)`")
def _(case: Case) -> None:
    """The lender of the session knows whose event it is, and whether its aggregate is held."""
    published: list[Event] = []
    with pytest.raises(SessionMisused, match="in a handler or in a request"):
        case.session.publish(Opened(id="a"))
    case.session.publisher = published.append
    case.session.publish(Opened(id="a"))
    assert published == [Opened(id="a")]


@line("`session.schedule(event, after=..., name=...)`, `session.cancel(name)`")
def _(case: Case) -> None:
    """The lender knows whose event it is. Changes wait for the end, or for a second one of their name."""
    with pytest.raises(SessionMisused, match="in a handler or in a request"):
        case.session.cancel("a")
    scheduled: list[tuple[Event, Change]] = []
    settled: list[str] = []

    def settle() -> None:
        settled.extend(case.session.changes)
        case.session.changes.clear()

    case.session.scheduler = lambda event, change: scheduled.append((event, change))
    case.session.settler = settle
    change = case.session.schedule(Opened(id="a"), after=timedelta(hours=1), name="a")
    assert scheduled == [(Opened(id="a"), change)]
    case.session.cancel("b")
    assert (list(case.session.changes), settled, case.statements) == (["b"], [], [])
    case.session.cancel("b")
    assert (list(case.session.changes), settled) == (["b"], ["b"])


@line("`session.lock(Model, key)`")
def _(case: Case) -> None:
    case.session.lock_all(Account, ["a", "none"])
    case.statements.clear()
    account = case.session.lock(Account, "a")
    assert account is not None
    assert account.balance == 1
    assert case.session.lock(Account, "none") is None
    assert case.statements == []
    assert case.locked()
    assert (case.session.holds("a"), case.session.holds("b"), case.session.holds("none")) == (True, False, False)


@line("`session.lock(Model, key)`")
def _(case: Case) -> None:
    """A row read without a lock, and changed, is not overwritten by a read."""
    case.session.get_one(Account, "a").balance = 5
    account = case.session.lock(Account, "a")
    assert account is not None
    assert account.balance == 5


@line('`session.lock(Model, ("eu", 7))`')
def _(case: Case) -> None:
    case.session.lock_all(Area, [("eu", 8), ("eu", 7), ("it:", 7)])
    case.statements.clear()
    area = case.session.lock(Area, ("eu", 7))
    assert area is not None
    assert area.people == 1
    assert case.session.lock(Area, ("it:", 7)) is None
    assert case.statements == []
    assert case.area_locked()
    assert (case.session.holds("eu:7"), case.session.holds("it%3A:7")) == (True, False)
    case.session.add(Area(country="it:", number=7, people=0))
    assert case.session.holds("it%3A:7")
    area.people = 3
    assert case.session.scalar(select(func.sum(Area.people))) == 5


@line('`session.lock(Model, "eu")` for such a key')
def _(case: Case) -> None:
    for key in ("eu", ("eu",), ("eu", 7, 1), ["eu", 7]):
        with pytest.raises((SessionMisused, TypeError), match=r"tuple of these|unhashable"):
            case.session.lock(Area, key)


@line("`session.add(row)`, `add_all`")
def _(case: Case) -> None:
    case.session.add(Account(id="new"))
    case.session.add_all([Account(id="newer", entries=[Entry()])])
    assert case.session.holds("new")
    assert case.session.holds("newer")
    assert case.session.lock(Account, "new") is not None
    later = Account()
    case.session.add(later)
    assert not case.session.holds("later")
    later.id = "later"
    assert case.session.lock(Account, "later") is later
    assert case.session.holds("later")


@line("`session.add(row)`, `add_all`")
def _(case: Case) -> None:
    """The row comes by a relationship, its key from the database."""
    account = case.session.lock(Account, "a")
    assert account is not None
    entry = Entry()
    account.entries.append(entry)
    case.session.flush()
    assert case.session.holds(str(entry.id))


@line("`session.add(row)` of a row that another transaction has read")
def _(case: Case) -> None:
    with Session(case.engine) as other:
        row = other.get_one(Account, "a")
    with pytest.raises(SessionMisused, match="lock it, or merge it"):
        case.session.add(row)


@line("`session.delete(row)`")
def _(case: Case) -> None:
    account = case.session.lock(Account, "a")
    case.session.delete(account)
    assert case.session.lock(Account, "a") is None
    case.session.flush()
    assert case.session.lock(Account, "a") is None
    assert case.session.holds("a")
    case.session.add(Account(id="a", balance=7))
    assert case.session.scalar(select(Account.balance).where(Account.id == "a")) == 7


@line("`session.get(Model, key)`")
def _(case: Case) -> None:
    case.session.add(Account(id="new", balance=3))
    assert case.session.get_one(Account, "new").balance == 3
    assert case.session.get_one(Account, "a").balance == 1
    assert not case.session.holds("a")
    assert not case.locked()


@line("`session.get(Model, key, with_for_update=True)`")
def _(case: Case) -> None:
    account = case.session.get_one(Account, "a")
    case.elsewhere("UPDATE account SET balance = 9 WHERE id = 'a'")
    assert case.session.get(Account, "a", with_for_update=True) is account
    assert account.balance == 9
    assert case.session.holds("a")
    assert case.locked()
    assert case.session.get(Account, "none", with_for_update=True) is None
    assert not case.session.holds("none")


@line("`session.scalars(select(Model))`, `execute`, `scalar`, `query`")
def _(case: Case) -> None:
    account = case.session.lock(Account, "a")
    assert account is not None
    count = select(func.count()).select_from(Account)
    for n in range(1, 4):
        case.session.add(Account(id=f"new {n}"))
        account.balance += 1
        assert case.session.scalar(count) == 2 + n
        assert case.session.execute(count).scalar_one() == 2 + n
        assert case.session.query(Account).count() == 2 + n
        assert case.session.execute(text("SELECT count(*) FROM account")).scalar_one() == 2 + n
        assert case.session.scalars(select(Account.__table__.c.balance).where(Account.id == "a")).one() == 1 + n
    assert {row.id for row in case.session.scalars(select(Account))} > {"a", "b"}
    assert not case.session.holds("b")


@line("`session.scalars(select(Model).with_for_update())`")
def _(case: Case) -> None:
    account = case.session.get_one(Account, "a")
    case.elsewhere("UPDATE account SET balance = 9 WHERE id = 'a'")
    assert list(case.session.scalars(select(Account).where(Account.id == "a").with_for_update())) == [account]
    assert account.balance == 9
    assert case.session.holds("a")
    assert not case.session.holds("b")
    for how in ({"nowait": True}, {"skip_locked": True}, {"key_share": True}, {"of": Account}):
        found = case.session.execute(select(Account, Account.balance).where(Account.id == "b").with_for_update(**how))
        assert [(row.id, balance) for row, balance in found] == [("b", 2)]
        assert case.session.holds("b")
    assert case.session.scalar(select(Account).where(Account.id == "b").with_for_update()) is not None
    assert case.session.query(Area).filter(Area.number == 7).with_for_update().one().people == 1
    assert case.session.holds("eu:7")


@line("`session.scalars(select(Model).with_for_update())`")
def _(case: Case) -> None:
    """Unwritten changes are not overwritten by a read, even where nothing is flushed by itself."""
    account = case.session.lock(Account, "a")
    assert account is not None
    account.balance = 5
    with case.session.no_autoflush:
        assert case.session.scalars(select(Account).where(Account.id == "a").with_for_update()).one().balance == 5


@line("`session.scalars(select(Model).with_for_update())`")
def _(case: Case) -> None:
    """A join locks the rows named; a WITH query, which PostgreSQL does not lock, none."""
    case.session.add(Entry(account="a"))
    joined = select(Account, Entry).join(Entry, Entry.account == Account.id)
    row, entry = case.session.execute(joined.with_for_update(of=Entry)).one()
    assert (case.session.holds("a"), case.session.holds(str(entry.id))) == (False, True)
    rows = select(Account).cte()
    named = select(Account).join(rows, rows.c.id == Account.id).where(Account.id == row.id)
    case.session.scalars(named.with_for_update(of=Account)).one()
    assert case.session.holds("a")


@line("`select(Model).with_for_update(read=True)`")
def _(case: Case) -> None:
    case.session.scalars(select(Account).with_for_update(read=True)).all()
    assert not case.session.holds("a")


@line("`select(Model.id).with_for_update()`")
def _(case: Case) -> None:
    assert case.session.scalars(select(Account.id).order_by(Account.id).with_for_update()).all() == ["a", "b"]
    assert not case.session.holds("a")
    assert case.locked()


@line("`session.refresh(row)`")
def _(case: Case) -> None:
    account = case.session.lock(Account, "a")
    assert account is not None
    account.balance = 5
    case.session.refresh(account)
    assert account.balance == 5


@line("`session.refresh(row, with_for_update=True)`")
def _(case: Case) -> None:
    account = case.session.get_one(Account, "a")
    case.elsewhere("UPDATE account SET balance = 9 WHERE id = 'a'")
    case.session.refresh(account, with_for_update={"read": True})
    assert not case.session.holds("a")
    case.session.refresh(account, with_for_update=True)
    assert account.balance == 9
    assert case.session.holds("a")
    assert case.locked()


@line("`session.merge(row)`")
def _(case: Case) -> None:
    merged = case.session.merge(Account(id="a", balance=8))
    assert case.locked()
    new = case.session.merge(Account(id="new", balance=3))
    assert (case.session.holds("a"), case.session.holds("new")) == (True, True)
    assert (case.session.lock(Account, "a"), case.session.lock(Account, "new")) == (merged, new)
    assert case.session.scalar(select(func.sum(Account.balance))) == 8 + 2 + 3


@line("`session.merge(row, load=False)`")
def _(case: Case) -> None:
    with pytest.raises(SessionMisused, match="lock it instead"):
        case.session.merge(Account(id="a"), load=False)


@line("`session.expire(row)`, `expire_all()`")
def _(case: Case) -> None:
    account = case.session.lock(Account, "a")
    assert account is not None
    account.balance = 100
    case.session.expire(account)
    assert account.balance == 1
    account.balance = 100
    case.session.expire_all()
    assert account.balance == 1
    assert case.session.lock(Account, "a") is account
    assert case.session.holds("a")


@line("`session.expunge(row)`")
def _(case: Case) -> None:
    new = Account(id="new")
    case.session.add(new)
    case.session.expunge(new)
    assert not case.session.holds("new")
    assert case.session.lock(Account, "new") is None
    account = case.session.lock(Account, "a")
    case.session.expunge(account)
    again = case.session.lock(Account, "a")
    assert again is not account
    assert again in case.session


@line("`session.execute(update(Model).where(...))`")
def _(case: Case) -> None:
    a = case.session.lock(Account, "a")
    assert a is not None
    a.balance = 10
    raised = update(Account).values(balance=Account.balance + 1)
    case.session.execute(raised)
    assert a.balance == 11
    assert not case.session.holds("b")
    (b,) = case.session.scalars(raised.where(Account.id == "b").returning(Account))
    assert b.balance == 4
    assert case.session.holds("b")
    case.session.execute(raised, execution_options={"synchronize_session": False})
    assert (a.balance, b.balance) == (12, 5)


@line("`session.execute(update(Model).where(...))`")
def _(case: Case) -> None:
    """The keys that a statement returns are those of the rows that it has written, and nobody else can write them."""
    raised = update(Account).values(balance=Account.balance + 1)
    assert sorted(case.session.execute(raised.returning(Account.balance)).all()) == [(2,), (3,)]
    assert not case.session.holds("a")
    found = case.session.execute(raised.where(Account.id == "a").returning(Account.balance, Account.id))
    assert found.all() == [(3, "a")]
    assert (case.session.holds("a"), case.session.holds("b")) == (True, False)
    moved = update(Area).values(people=0).where(Area.number == 7)
    assert case.session.scalars(moved.returning(Area.number)).all() == [7]
    assert not case.session.holds("eu:7")
    case.session.execute(moved.returning(Area.number, Area.country))
    assert case.session.holds("eu:7")


@line("`session.execute(delete(Model).where(...))`")
def _(case: Case) -> None:
    case.session.lock(Account, "a")
    case.session.execute(delete(Account))
    assert case.session.lock(Account, "a") is None


@line("`session.execute(insert(Model), [...])`")
def _(case: Case) -> None:
    assert case.session.lock(Account, "new") is None
    case.session.execute(insert(Account), [{"id": "new", "balance": 3}, {"id": "other", "balance": 3}])
    assert case.session.holds("new")
    assert case.session.holds("other")
    case.session.execute(insert(Account), {"id": "single", "balance": 3})
    assert case.session.holds("single")
    case.session.execute(insert(Area), [{"country": "us", "number": 1, "people": 0}])
    assert case.session.holds("us:1")
    account = case.session.lock(Account, "new")
    assert account is not None
    assert account.balance == 3
    case.session.scalars(insert(Account).returning(Account), [{"id": "newer", "balance": 3}]).one()
    assert case.session.holds("newer")


@line("`session.execute(insert(Model), [...])`")
def _(case: Case) -> None:
    """Of an INSERT that may leave rows as they are, or makes them of other rows, those that it returns are held."""
    made = upsert(Account).on_conflict_do_nothing()
    case.elsewhere("INSERT INTO account VALUES ('there', 1)")
    case.session.execute(made, [{"id": "there", "balance": 3}, {"id": "new", "balance": 3}])
    assert (case.session.holds("there"), case.session.holds("new")) == (False, False)
    given = text("SELECT *, 1 FROM unnest(CAST(:ids AS text[]))").bindparams(ids=["there", "newer", "newest"])
    written = upsert(Account).from_select(["id", "balance"], given.columns(Account.id, Account.balance))
    found = case.session.scalars(written.on_conflict_do_nothing().returning(Account.id))
    assert sorted(found) == ["newer", "newest"]
    assert [case.session.holds(key) for key in ("there", "newer", "newest")] == [False, True, True]
    savepoint = case.session.begin_nested()
    case.session.execute(insert(Account), [{"id": "undone", "balance": 3}])
    savepoint.rollback()
    assert not case.session.holds("undone")


@line('`session.execute(text("UPDATE ..."))`')
def _(case: Case) -> None:
    a, b = case.session.lock(Account, "a"), case.session.get_one(Account, "b")
    assert a is not None
    a.balance = 10
    for change in (
        text("UPDATE account SET balance = balance + 1"),
        update(Account.__table__).values(balance=Account.__table__.c.balance + 1),  # type: ignore[arg-type]
    ):
        before = b.balance
        case.session.execute(change)
        assert b.balance == before + 1
    assert a.balance == 12
    case.session.execute(text("DELETE FROM account"))
    assert case.session.lock(Account, "a") is None
    case.session.execute(insert(Account.__table__).values(id="a", balance=1))  # type: ignore[arg-type]
    assert case.session.lock(Account, "a") is not None


@line("`session.connection()`")
def _(case: Case) -> None:
    account = case.session.lock(Account, "a")
    assert account is not None
    account.balance = 10
    connection = case.session.connection()
    assert connection.scalar(text("SELECT balance FROM account WHERE id = 'a'")) == 10
    connection.execute(text("UPDATE account SET balance = 11"))
    case.session.expire(account)
    assert account.balance == 11
    with connection.begin_nested():
        connection.exec_driver_sql("UPDATE account SET balance = 12")


@line("`session.flush()`")
def _(case: Case) -> None:
    case.session.add_all([Entry(account="new"), Account(id="new")])
    case.session.flush()
    assert case.session.connection().scalar(text("SELECT count(*) FROM entry")) == 1


@line("`with session.no_autoflush:`")
def _(case: Case) -> None:
    case.session.add(Account(id="new"))
    count = select(func.count()).select_from(Account)
    with case.session.no_autoflush:
        assert case.session.scalar(count) == 2
    assert case.session.scalar(count) == 3


@line("`with session.begin_nested():`")
def _(case: Case) -> None:
    a = case.session.lock(Account, "a")
    assert a is not None
    a.balance = 5
    case.session.collected.append("before")

    def inside() -> None:
        with case.session.begin_nested():
            a.balance = 6
            case.session.lock(Account, "b")
            case.session.collected.append("inside")
            case.session.add(Account(id="new"))
            case.session.connection().execute(text("INSERT INTO account VALUES ('a', 1)"))

    with pytest.raises(IntegrityError):
        inside()
    assert (a.balance, case.session.collected) == (5, ["before"])
    assert [case.session.holds(key) for key in ("a", "b", "new")] == [True, False, False]
    assert (case.locked("a"), case.locked("b")) == (True, False)
    assert case.session.lock(Account, "new") is None
    with case.session.begin_nested():
        case.session.lock(Account, "b")
        a.balance = 7
    assert case.session.holds("b")
    assert case.session.scalar(select(Account.balance).where(Account.id == "a")) == 7


@line("`row.relationship`")
def _(case: Case) -> None:
    case.session.add(Entry(account="a"))
    (entry,) = case.session.get_one(Account, "a").entries
    case.session.expire_all()
    assert not case.session.holds("a")
    assert entry.account == "a"


@line('`row.lines["tea"] += 1` in a JSON or array column')
def _(case: Case) -> None:
    case.session.add(shelf := Shelf(id="s", lines={"tea": 1, "of": {"tea": [1]}}))
    case.session.flush()
    for _ in range(2):
        shelf.lines["tea"] += 1
        shelf.lines["of"]["tea"].append(2)
        case.session.flush()
        case.session.expire(shelf)
    assert shelf.lines == {"tea": 3, "of": {"tea": [1, 2, 2]}}


@line("`row.column` with a default of the database")
def _(case: Case) -> None:
    new = Account(id="new")
    case.session.add(new)
    case.session.flush()
    assert new.opened == "today"


@line("`commit`, `rollback`, `close`, `reset`, `invalidate`, `prepare`")
def _(case: Case) -> None:
    session = case.session
    account = session.lock(Account, "a")
    assert account is not None
    account.balance = 10
    connection = session.connection()
    for refused in (
        *(getattr(session, name) for name in ("commit", "rollback", "close", "reset", "invalidate", "prepare")),
        *(getattr(connection, name) for name in ("commit", "rollback", "close", "invalidate", "detach")),
        connection.get_transaction,
        *(
            lambda word=word: session.execute(text(word))
            for word in ("COMMIT", " rollback;", "SELECT 1; commit", "BEGIN", "end", "START TRANSACTION", "ABORT")
        ),
        lambda: connection.execute(text("COMMIT")),
        lambda: connection.exec_driver_sql("COMMIT"),
    ):
        with pytest.raises(SessionMisused, match=r"is not for a handler.*begin_nested"):
            refused()
    with pytest.raises(SessionMisused), session:
        pass
    assert case.locked()
    assert session.scalar(select(Account.balance).where(Account.id == "a")) == 10
    session.execute(text("DO $$ BEGIN PERFORM 1; END $$"))


@line("`bulk_save_objects`, `bulk_insert_mappings`, `bulk_update_mappings`")
def _(case: Case) -> None:
    session: Any = case.session
    for refused in (session.bulk_save_objects, session.bulk_insert_mappings, session.bulk_update_mappings):
        with pytest.raises(SessionMisused, match="add_all"):
            refused(Account, [])


@pytest.mark.parametrize(
    "tried",
    [
        pytest.param(function, id=f"{begins} {n}".replace("`", ""))
        for begins, functions in TRIED.items()
        for n, function in enumerate(functions)
    ],
)
def test_a_line_is_so(case: Case, tried: Callable[[Case], None]) -> None:
    tried(case)


def test_every_line_is_tried() -> None:
    assert list(TRIED) == LINES
