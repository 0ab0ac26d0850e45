"""One handler's work is seen by the next in the batch, as if each had its own transaction, with no more statements than
needed.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import pytest
import structlog
from sqlalchemy import Engine, Text, event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dev.servers import Postgres
from shared.errors import HandlingFailed, NotOwned, Reject, SessionMisused
from shared.events import Envelope, Event, key_of
from shared.postgres import tables, transaction
from shared.postgres.engine import connect
from shared.postgres.handlers import Handlers
from shared.postgres.outbox import Outbox
from shared.postgres.transaction import PostgresTransaction
from shared.protocol.ports import Delivery, Input, Record
from shared.service import Service
from shared.session import Session
from shared.testing import databases


class Base(DeclarativeBase):
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 (SQLAlchemy's own name)


class Seat(Base):
    """A row with a key of two columns."""

    __tablename__ = "seat"

    room: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sold: Mapped[int]


class Sold(Base):
    __tablename__ = "sold"

    id: Mapped[int] = mapped_column(primary_key=True)
    room: Mapped[str] = mapped_column(Text)


class Asked(Event, frozen=True, kw_only=True):
    topic: ClassVar[str] = "asked"
    room: str = "blue"
    number: int
    how: str = ""


class Told(Event, frozen=True, kw_only=True):
    topic: ClassVar[str] = "told"
    room: str
    number: int
    total: int

    @property
    def key(self) -> str:
        return key_of(self.room, self.number)


SERVICE = Service("seats", publishes=(Told,))


@SERVICE.on(Asked)
def sell(asked: Asked, session: Session, seat: Seat | None) -> Iterable[Event]:
    """Query nothing undeclared, unless the event wishes it."""
    if asked.how == "defect":
        session.add(Sold(room="\x00"))
        return ()
    if asked.how == "nothing":
        return None  # type: ignore[return-value]
    if asked.how == "not locked":
        return (Told(room="red", number=1, total=1),)
    if asked.how == "commit":
        session.commit()
    if seat is None:
        seat = Seat(room=asked.room, number=asked.number, sold=0)
        session.add(seat)
    seat.sold += 1
    session.add(Sold(room=asked.room))
    total = 0
    if asked.how == "count":
        try:
            total = session.scalars(select(func.count()).select_from(Sold)).one()
        except Exception as error:
            raise Reject("it cannot be counted") from error
    return (Told(room=asked.room, number=asked.number, total=total),)


@pytest.fixture(scope="module")
def engine(postgres: Postgres) -> Iterator[Engine]:
    with databases.created(postgres, "batches", Base.metadata, tables.metadata) as engine:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO exactly_once_lane (lane) VALUES (0)"))
        yield engine


class Batch:
    """Handles events as a worker does, in one transaction that is not committed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.published: list[Any] = []
        self.statements: list[str] = []

    def handle(self, *asked: Asked) -> None:
        """Handle events, and collect in `published` what they publish."""
        outbox = Outbox(SERVICE, 1_000_000)
        deliveries = [
            Delivery(Record(Input("asked", 0), n, None, None, None), Envelope("", "", "", 1, "", "", b""), one, 0)
            for n, one in enumerate(asked)
        ]

        def collect(delivery: Delivery, events: Iterable[Event]) -> None:
            for told in events:
                outbox.collect(session, told, f"id-{len(self.published)}", None)
                self.published.append(told)

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            self.statements.append(statement)

        event.listen(self._engine, "before_cursor_execute", note)
        try:
            with Session(self._engine) as session:
                Handlers(SERVICE).run(deliveries, session, collect)
                outbox.write(session)
        finally:
            event.remove(self._engine, "before_cursor_execute", note)


@pytest.fixture
def batch(engine: Engine) -> Batch:
    return Batch(engine)


def test_a_question_sees_what_the_batch_has_written_so_far(batch: Batch) -> None:
    batch.handle(*(Asked(number=n % 3, how="count") for n in range(10)))
    assert [told.total for told in batch.published] == list(range(1, 11))


@pytest.mark.parametrize("events", [2, 50, 500])
def test_handlers_that_ask_nothing_take_the_same_few_statements_however_many_they_are(
    batch: Batch, events: int
) -> None:
    """One to read and lock, one for each table that is written, one for the outbox."""
    batch.handle(*(Asked(number=n) for n in range(events)))
    assert len(batch.published) == events
    assert len(batch.statements) == 4


def test_the_aggregate_of_several_columns_must_be_held_too(batch: Batch) -> None:
    with pytest.raises(HandlingFailed) as failed:
        batch.handle(Asked(number=1), Asked(number=1, how="not locked"))
    assert isinstance(failed.value.__cause__, NotOwned)
    assert "'red:1'" in str(failed.value.__cause__)


def test_a_flush_that_fails_is_not_counted_against_the_one_who_asked(batch: Batch) -> None:
    """The first one's row cannot be stored; the second one's query finds that out."""
    with pytest.raises(HandlingFailed) as failed:
        batch.handle(Asked(number=1, how="defect"), Asked(number=2, how="count"))
    assert failed.value.record is None
    with pytest.raises(HandlingFailed) as failed:
        batch.handle(Asked(number=1), Asked(number=2, how="commit"))
    assert failed.value.record is not None
    assert isinstance(failed.value.__cause__, SessionMisused)


def test_a_handler_that_forgets_to_return_its_events_fails(batch: Batch) -> None:
    with pytest.raises(HandlingFailed) as failed:
        batch.handle(Asked(number=1, how="nothing"))
    assert "sell returned nothing" in str(failed.value.__cause__)
    assert "None if its type says so" in str(failed.value.__cause__)


def test_at_debug_a_batch_is_told_with_the_ids_of_its_events(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = structlog.testing.LogCapture()
    level = structlog.make_filtering_bound_logger(logging.DEBUG)  # the module's own keeps the level of another test
    monkeypatch.setattr(transaction, "log", structlog.wrap_logger(None, [lines], level))
    deliveries = [
        Delivery(Record(Input("asked", 0), n, None, None, None), Envelope(f"id-{n}", "", "", 1, "", "", b""), one, 0)
        for n, one in enumerate([Asked(number=1), Asked(number=2)])
    ]
    with Session(engine) as session:
        PostgresTransaction(
            session,
            service=SERVICE,
            handlers=Handlers(SERVICE),
            outbox=Outbox(SERVICE, 1_000_000),
            claim_bytes=0,
            warnings=[],
        ).handle(deliveries)
    assert {"event": "handling", "log_level": "debug", "events": 2, "ids": ["id-0", "id-1"]} in lines.entries


def test_a_commit_of_what_is_undone_fails(postgres: Postgres) -> None:
    """A handler caught the error of a statement: PostgreSQL would answer COMMIT with ROLLBACK, and no error."""
    engine = connect(databases.settings(postgres, ""), "postgres", 1)
    begun = PostgresTransaction(
        Session(engine),
        service=SERVICE,
        handlers=Handlers(SERVICE),
        outbox=Outbox(SERVICE, 1_000_000),
        claim_bytes=0,
        warnings=[],
    )
    with pytest.raises(DBAPIError):
        begun._session.execute(text("SELECT 1 / 0"))
    with pytest.raises(HandlingFailed) as failed:
        begun.commit()
    assert isinstance(failed.value.__cause__, SessionMisused)
    engine.dispose()
