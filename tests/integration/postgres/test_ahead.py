"""Statements that are sent together: one round trip, one first error, and a clock for idle transactions that runs."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from dev.servers import Postgres
from shared.orm import bulk
from shared.postgres import ahead, database_errors
from shared.postgres.ahead import Statement
from shared.testing import until
from tests.round_trips import counted

IDLE_MS = 300
"""Long for a test's own statements, short for the test."""

ADD = text("INSERT INTO thing (id, data) VALUES (:id, :data)")
COUNT = text("SELECT count(*) FROM thing")


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    name = f"ahead_{uuid.uuid4().hex[:12]}"
    postgres.create_database(name)
    engine = create_engine(
        postgres.dsn(name).replace("postgresql:", "postgresql+psycopg:"),
        connect_args={"prepare_threshold": 2},
    )
    bulk.install(engine)
    ahead.install(engine)
    database_errors.install(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE thing (id int PRIMARY KEY, data bytea)"))
    yield engine
    engine.dispose()
    postgres.drop_database(name)


def raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


def add(number: int, data: bytes = b"") -> Statement:
    return Statement(ADD, {"id": number, "data": data})


def counts() -> Statement:
    return Statement(COUNT, {})


def test_several_statements_and_the_begin_before_them_are_one_round_trip(engine: Engine) -> None:
    with engine.connect() as connection:
        for first in (0, 2, 4, 6):  # the later ones are prepared
            with counted(raw(connection)) as trips:
                _, _, rows = ahead.execute(connection, [add(first), add(first + 1), counts()])
            assert rows == [(first + 2,)]
            assert trips.number == 1, trips.messages
            connection.commit()


def test_the_first_error_is_raised_and_what_came_after_it_did_not_run(engine: Engine) -> None:
    with engine.connect() as connection:
        for _ in range(4):
            with pytest.raises(IntegrityError, match="thing_pkey"):
                ahead.execute(connection, [add(1), add(2), add(1), add(3), counts()])
            connection.rollback()
            assert ahead.execute(connection, [counts()]) == [[(0,)]]
            connection.rollback()


def test_a_value_that_cannot_be_written_leaves_a_connection_that_works(engine: Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as failure:
            ahead.execute(connection, [add(1), Statement(ADD, {"id": object(), "data": b""}), counts()])
        assert not failure.value.connection_invalidated
        connection.rollback()
        assert ahead.execute(connection, [counts()]) == [[(0,)]]


def test_a_lost_session_is_given_up(engine: Engine) -> None:
    with engine.connect() as connection, engine.connect() as other:
        ahead.execute(connection, [add(1)])
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": raw(connection).info.backend_pid})
        with pytest.raises(DBAPIError) as failure:
            ahead.execute(connection, [add(2), counts()])
        assert failure.value.connection_invalidated


def test_a_session_that_ends_in_the_midst_of_its_statements_is_given_up(engine: Engine) -> None:
    ends = Statement(text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as failure:
            ahead.execute(connection, [add(1), ends, counts()])
        assert failure.value.connection_invalidated


def test_a_session_that_cannot_leave_its_pipeline_is_given_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm met it when PostgreSQL shut down: libpq was still busy, and the session could be asked nothing more."""

    def stays(pipeline: Any, _error: object) -> None:
        pipeline.level -= 1
        raise psycopg.OperationalError("cannot exit pipeline mode while busy")

    with engine.connect() as connection, monkeypatch.context() as patch:
        patch.setattr(psycopg.Pipeline, "_exit", stays)
        with pytest.raises(DBAPIError) as failure:
            ahead.execute(connection, [counts()])
        assert failure.value.connection_invalidated
    with engine.connect() as connection:
        assert ahead.execute(connection, [counts()]) == [[(0,)]]


def test_more_than_any_buffer_holds_is_sent_and_answered(engine: Engine) -> None:
    data = bytes(20_000_000)
    with engine.connect() as connection:
        found = ahead.execute(
            connection,
            [*(add(number, data) for number in range(3)), Statement(text("SELECT data FROM thing ORDER BY id"), {})],
        )
        assert found[-1] == [(data,)] * 3


def one_by_one(connection: Connection) -> None:
    # An array cannot hold a `lower(...)`: it is left to the driver's `executemany`.
    rows = [{"id": number, "data": None} for number in range(20)]
    connection.execute(text("INSERT INTO thing (id, data) VALUES (abs(:id), :data)"), rows)


def together(connection: Connection) -> None:
    ahead.execute(connection, [add(1), counts()])


@pytest.mark.parametrize("work", [together, one_by_one])
def test_a_client_that_stands_still_afterwards_is_ended_by_postgresql(engine: Engine, work: Any) -> None:
    with engine.connect() as connection:
        connection.execute(text(f"SET idle_in_transaction_session_timeout = {IDLE_MS}"))
        connection.commit()
        work(connection)
        pid = raw(connection).info.backend_pid
        with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(hide_password=False)) as other:
            other.autocommit = True
            alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
            until(lambda: other.execute(alive, (pid,)).fetchone() == (0,), "the idle session is ended")
        connection.invalidate()


def test_many_rows_that_the_driver_writes_one_by_one_are_one_round_trip(engine: Engine) -> None:
    with engine.connect() as connection:
        with counted(raw(connection)) as trips:
            one_by_one(connection)
        assert trips.number == 1, trips.messages
        assert connection.execute(COUNT).scalar_one() == 20
        with pytest.raises(IntegrityError):
            one_by_one(connection)
        connection.rollback()
        assert connection.execute(COUNT).scalar_one() == 0
