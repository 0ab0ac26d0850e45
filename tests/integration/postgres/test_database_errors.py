"""PostgreSQL's errors reveal no value: each value is a canary, searched for in all that is logged of an error."""

import enum
import json
import traceback
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import structlog
from sqlalchemy import Enum, Integer, bindparam, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from dev.servers import Servers
from shared.errors import DatabaseInDoubt
from shared.postgres import engine as postgres_engine
from shared.postgres.transaction import unavailable
from shared.telemetry.failures import describe
from tests.faults import trail
from tests.integration.tallies import Tallies

CANARY = "canary'\"7361"
"""Has both kinds of quotes, which end a message's quotes too early."""
BARE = "7361"
"""The canary in every form that the server may give it."""

TABLES = """
    CREATE TYPE colour AS ENUM ('red', 'green');
    CREATE DOMAIN word AS text CHECK (value !~ '7361');
    CREATE TABLE shelf (
        id text PRIMARY KEY, short varchar(3), tint colour, day date, amount int CHECK (amount < 100),
        must text NOT NULL, other text REFERENCES shelf (id) DEFERRABLE INITIALLY IMMEDIATE, span int4range, said word,
        EXCLUDE USING gist (span WITH &&)
    );
    CREATE TABLE part (id text) PARTITION BY LIST (id);
    CREATE UNIQUE INDEX shelf_lower ON shelf (lower(must));
    CREATE FUNCTION complain(words text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'never %', words USING DETAIL = words, HINT = words;
    END $$;
    CREATE FUNCTION insert_it(words text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('INSERT INTO shelf (id, day) VALUES (%L, %L)', words, words); RETURN 1;
    END $$;
    INSERT INTO shelf (id, must, span) VALUES ('canary''"7361', 'canary''"7361', '[7361,7362]');
"""

STATEMENTS = {
    "unique": ("INSERT INTO shelf (id, must) VALUES (:v, 'x')", "UniqueViolation", 'constraint "shelf_pkey"'),
    "unique expression": ("INSERT INTO shelf (id, must) VALUES ('y', upper(:v))", "UniqueViolation", "shelf_lower"),
    "foreign key": (
        "INSERT INTO shelf (id, must, other) VALUES ('a', 'a', :v || '?')",
        "ForeignKey",
        "shelf_other_fkey",
    ),
    "still referred to": (
        "DELETE FROM exactly_once_lane WHERE lane = 0 AND :v <> ''",
        "ForeignKey",
        "exactly_once_outbox_lane_fkey",
    ),
    "check": (
        "INSERT INTO shelf (id, must, amount) VALUES (:v || '!', 'a', 100 + length(:v))",
        "CheckViolation",
        "shelf_amount",
    ),
    "not null": ("INSERT INTO shelf (id, short) VALUES (:v || '!', 'a')", "NotNullViolation", 'column "must"'),
    "exclusion": (
        "INSERT INTO shelf (id, must, span) VALUES (:v || 1, '1', '[7361,7362]')",
        "ExclusionViolation",
        "shelf_span_excl",
    ),
    "domain": ("INSERT INTO shelf (id, must, said) VALUES ('a', 'a', :v)", "CheckViolation", "word_check"),
    "no partition": ("INSERT INTO part VALUES (:v)", "CheckViolation", "part"),
    "integer": ("SELECT CAST(:v AS int)", "InvalidTextRepresentation", "integer"),
    "enum": ("SELECT CAST(:v AS colour)", "InvalidTextRepresentation", "colour"),
    "uuid": ("SELECT CAST(:v AS uuid)", "InvalidTextRepresentation", "uuid"),
    "array": ("SELECT CAST(:v AS int[])", "InvalidTextRepresentation", "array"),
    "json": ("SELECT CAST(:v AS jsonb)", "InvalidTextRepresentation", "json"),
    "date": ("SELECT CAST(:v AS date)", "InvalidDatetimeFormat", "date"),
    "date out of range": ("SELECT CAST('7361-77-77' || left(:v, 0) AS date)", "DatetimeFieldOverflow", "out of range"),
    "zone": ("SELECT now() AT TIME ZONE :v", "InvalidParameterValue", "time zone"),
    "out of range": ("SELECT CAST(CAST(:v AS text) || '' AS int) + 1", "InvalidTextRepresentation", "integer"),
    "too large": ("SELECT CAST('73617361736173617361' || left(:v, 0) AS int)", "NumericValueOutOfRange", "integer"),
    "too long": ("INSERT INTO shelf (id, short) VALUES ('a', :v)", "StringDataRightTruncation", "varying(3)"),
    "expression": ("SELECT 'a' ~ ('(' || :v)", "InvalidRegularExpression", "regular expression"),
    "raised": ("SELECT complain(:v)", "RaiseException", "complain"),
    "raised inside": ("SELECT insert_it(:v)", "DatetimeFormat", "insert_it"),
    "encoding": ("SELECT decode(:v, 'hex')", "InvalidParameterValue", "hexadecimal"),
    "in the text": ("SELECT 'canary7361' :v", "Error", ""),
    "in an escape": ("SELECT E'it\\'s 7361', no_such_column, :v", "UndefinedColumn", "no_such_column"),
    "in dollars": ("SELECT $$canary 7361$$, no_such_column, :v", "UndefinedColumn", "no_such_column"),
    "no column": ("SELECT no_such_column, :v", "UndefinedColumn", "no_such_column"),
    "no table": ("SELECT :v FROM no_such_table", "UndefinedTable", "no_such_table"),
}


@pytest.fixture(scope="module")
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        made.request(1)
        with psycopg.connect(servers.postgres.dsn(made.name), autocommit=True) as connection:
            connection.execute(TABLES.encode())
        yield made


@pytest.fixture(scope="module")
def engine(tallies: Tallies) -> Iterator[Any]:
    owner = tallies.settings.model_copy(update={"database_url": tallies.settings.migration_database_url})
    made = postgres_engine.connect(owner, tallies.name, 1)
    yield made
    made.dispose()


def written(error: BaseException) -> str:
    """Return all that is ever written of an error."""
    lines = traceback.format_exception(error)
    form = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    frames = json.dumps(form((type(error), error, error.__traceback__)))
    meaning = unavailable(error)
    return "\n".join([str(error), repr(error), *describe(error), *lines, frames, str(meaning), repr(vars(error))])


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_fails_is_told_without_values(engine: Any, name: str) -> None:
    statement, kind, word = STATEMENTS[name]
    with engine.connect() as connection, pytest.raises(SQLAlchemyError) as caught:
        connection.execute(text(statement), {"v": CANARY})
    told = written(caught.value)
    assert BARE not in told
    assert kind in told
    assert word in str(caught.value).partition("[SQL")[0]


class Odd(TypeDecorator[Any]):
    """A type that refuses a value with the value in its words."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        raise ValueError(f"{value} is odd")


Colour = enum.Enum("Colour", "RED GREEN")


@pytest.mark.parametrize("kind", [Odd(), Enum(Colour, validate_strings=True)], ids=str)
def test_a_value_that_cannot_be_bound_is_not_told(engine: Any, kind: Any) -> None:
    with engine.connect() as connection, pytest.raises(SQLAlchemyError) as caught:
        connection.execute(select(bindparam("given", CANARY, kind)))
    assert BARE not in written(caught.value)


def test_a_value_that_the_driver_cannot_read_is_not_told(engine: Any) -> None:
    with engine.connect() as connection, pytest.raises(SQLAlchemyError) as caught:
        connection.execute(text(f"SELECT CAST('1{BARE}-01-01' AS date)")).all()
    assert BARE not in written(caught.value)


def test_many_rows_in_one_statement_are_not_told(engine: Any) -> None:
    insert = text("INSERT INTO shelf (id, must) VALUES (:id, :id)")
    with engine.connect() as connection, pytest.raises(IntegrityError, match="shelf_pkey") as caught:
        connection.execute(insert, [{"id": "one"}, {"id": CANARY}])
    assert BARE not in written(caught.value)


def test_what_fails_at_the_commit_is_told_without_values(engine: Any) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        connection.execute(text("INSERT INTO shelf (id, must, other) VALUES ('b', 'b', :v || '?')"), {"v": CANARY})
        with pytest.raises(SQLAlchemyError) as caught:
            connection.commit()
    assert BARE not in written(caught.value)
    assert "shelf_other_fkey" in str(caught.value)


def test_a_warning_at_the_commit_is_told_without_its_words(tallies: Tallies) -> None:
    with psycopg.connect(tallies.servers.postgres.dsn(tallies.name), autocommit=True) as connection:
        connection.execute("""
            CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE WARNING '7361 %', NEW.number; RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER warned AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION warn()
        """)
    built = trail.container(tallies.kit, tallies.settings)
    worker = built.worker_database()
    try:
        assert worker.take_slot()
        transaction = worker.begin()
        transaction._connection.execute(text("INSERT INTO effect (key, number) VALUES ('k', 1)"))
        with pytest.raises(DatabaseInDoubt) as caught:
            transaction.commit()
    finally:
        worker.close()
        built.worker_engine().dispose()
        tallies.sql("DROP TRIGGER warned ON effect")
    assert BARE not in written(caught.value)
    assert "01000" in str(caught.value)


def test_a_dead_letter_its_notice_its_commands_and_the_log_have_no_value(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.sql("ALTER TABLE trail ADD CONSTRAINT small CHECK (length(key) < 10)")
    tallies.ask(1, key=CANARY)
    tallies.work()
    (number,) = tallies.sql("SELECT max(id) FROM exactly_once_dead_letter")
    assert tallies.run(f"dead-letters redrive {number}") == 1
    capsys_out = capsys.readouterr()
    assert tallies.run("dead-letters list --json") == 0
    listed = json.loads(capsys.readouterr().out)[-1]
    (kept,) = tallies.sql("SELECT error || ' ' || detail FROM exactly_once_dead_letter WHERE id = %s", number)
    notices = tallies.read(tallies.service.dead_letter_topic)
    told = [kept, capsys_out.out, capsys_out.err, str(listed), *(str(m.value()) for m in notices)]
    assert notices
    assert all("small" in one for one in told if one and one != capsys_out.err), told
    assert BARE not in "".join(told)


@pytest.mark.parametrize(
    "held", ["SELECT FROM exactly_once_dead_letter FOR UPDATE", "LOCK TABLE exactly_once_dead_letter"]
)
def test_a_lock_of_another_session_is_no_outage(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    if not tallies.sql("SELECT id FROM exactly_once_dead_letter"):
        tallies.ask(1, key=CANARY)
        tallies.produce(b"no event")
        tallies.work()
    monkeypatch.setattr("shared.postgres.engine.LOCK_TIMEOUT_MS", 200)
    capsys.readouterr()
    with tallies.held(held):
        row = held.startswith("SELECT")
        line = "dead-letters redrive 1" if row else "dead-letters list"
        code = tallies.run(line)
    captured = capsys.readouterr()
    told = captured.out + captured.err
    what = "a row of exactly_once_dead_letter" if row else "what it waits for"
    assert f"55P03). PostgreSQL is up; {what} is locked by another session: see pg_stat_activity and " in told
    assert "A server is down" not in told
    assert (code, told.endswith("Try again when that session has ended its transaction\n")) == (
        (1, False) if row else (75, True)
    )
