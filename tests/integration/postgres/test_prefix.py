"""The library's tables have names of their own. A database of the previous release gets them while its processes work,
and a service may call its tables as it likes.
"""

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from psycopg import sql
from sqlalchemy import NullPool, create_engine

from dev.servers import Postgres
from shared.errors import Misconfigured
from shared.postgres import tables, version_table
from shared.postgres.migrations import migrate, refuse_behind
from shared.revisions import r0001, r0002, r0003, r0004, r0005, r0006, r0007, r0008
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until
from shared.testing.databases import settings as make_settings
from tests.integration.test_migrations import CATALOG

SERVICE = "inventory"
"""Its own tables have not changed since; the tests make only those of the library."""


@pytest.fixture
def settings(postgres: Postgres) -> Iterator[Settings]:
    """Settings of an empty database."""
    suffix = f"_{uuid.uuid4().hex[:12]}"
    postgres.create_database(SERVICE + suffix)
    yield make_settings(postgres, suffix)
    postgres.drop_database(SERVICE + suffix)


def connect(settings: Settings) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(settings.dsn(SERVICE).replace("+psycopg", ""), autocommit=True)


def make(settings: Settings, *releases: object) -> None:
    """Apply releases of the library's tables alone, as migrations do."""
    engine = create_engine(settings.dsn(SERVICE), poolclass=NullPool)
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        for release in releases:
            release()  # type: ignore[operator]


EARLIER = (r0001.upgrade, r0002.upgrade, r0003.upgrade)


def test_a_renamed_schema_a_created_one_and_the_models_are_the_same(settings: Settings) -> None:
    def catalog(*releases: object) -> list[list[tuple[object, ...]]]:
        with connect(settings) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            make(settings, *releases)
            return [sorted(connection.execute(part.encode()).fetchall(), key=str) for part in CATALOG]

    def models() -> None:
        tables.metadata.create_all(create_engine(settings.dsn(SERVICE), poolclass=NullPool))

    later = (r0005.upgrade, r0006.upgrade, r0007.upgrade, r0008.upgrade, r0006.accept)
    renamed = catalog(*EARLIER, r0004.upgrade, r0004.remove_old_names, *later)
    created = catalog(r0004.create, r0005.upgrade, r0006.create, r0007.upgrade, r0008.upgrade)
    assert renamed == created
    assert created == catalog(models)
    assert {name for (name, *_) in created[0]} == set(tables.metadata.tables)


@pytest.mark.parametrize("name", r0004.RENAMED)
def test_a_service_may_have_a_table_of_every_name_that_the_library_had(settings: Settings, name: str) -> None:
    with connect(settings) as connection:
        connection.execute(sql.SQL("CREATE TABLE {} (own int)").format(sql.Identifier(name)))
        make(settings, r0004.create)
        make(settings, r0004.remove_old_names)
        assert connection.execute(f"SELECT count(own) FROM {name}".encode()).fetchone() == (0,)


def test_the_old_names_are_free_after_the_last_migration(settings: Settings) -> None:
    migrate(settings, SERVICE)
    with connect(settings) as connection:
        for name in (*r0004.RENAMED, "alembic_version"):
            connection.execute(f"CREATE TABLE {name} (own int)".encode())


def test_an_alembic_of_the_service_in_the_same_schema_is_left_alone(settings: Settings) -> None:
    with connect(settings) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('ae1027a6acf')")
        migrate(settings, SERVICE)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("ae1027a6acf",)]
        relkind = "SELECT relkind::text FROM pg_class WHERE relname = 'alembic_version'"
        assert connection.execute(relkind).fetchone() == ("r",)


STATEMENTS = (
    "INSERT INTO lane (lane) VALUES (7) ON CONFLICT DO NOTHING",
    "INSERT INTO position AS old (topic, partition, next_offset) VALUES ('t', 0, 1) "
    "ON CONFLICT (topic, partition) DO UPDATE SET next_offset = old.next_offset + excluded.next_offset",
    "INSERT INTO outbox (lane, topic, key, event_id, event_type, event_version, data) "
    "SELECT 7, 't', 'k', n::text, 'E', 1, '' FROM unnest(ARRAY[1, 2]) AS n RETURNING id",
    "WITH claimed AS (UPDATE lane SET position = lane.position + 1, row_ids = ARRAY(SELECT id FROM outbox) "
    "WHERE lane = 7 RETURNING lane.lane, lane.position) INSERT INTO said (lane, position, topic, events, event_ids) "
    "SELECT lane, position, 't', 2, '{1,2}' FROM claimed",
    "SELECT * FROM outbox ORDER BY id FOR UPDATE SKIP LOCKED",
    "SELECT position.topic FROM position FOR UPDATE OF position",
    "LOCK TABLE lane IN ACCESS EXCLUSIVE MODE",
    "DELETE FROM outbox USING (SELECT lane, unnest(row_ids) AS id FROM lane) AS claimed "
    "WHERE outbox.lane = claimed.lane AND outbox.id = claimed.id",
    "DELETE FROM said WHERE ctid = ANY(ARRAY(SELECT ctid FROM said LIMIT 1))",
    "INSERT INTO inbox (source, event_id) VALUES ('s', '1') ON CONFLICT DO NOTHING RETURNING event_id",
    'INSERT INTO dead_letter (topic, partition, "offset", epoch, headers, error, detail) '
    "VALUES ('t', 0, 0, 0, '[]', 'E', '') RETURNING id",
    "SELECT max(version_num) FROM alembic_version",
)


def test_statements_of_the_previous_release_work_through_the_old_names(settings: Settings) -> None:
    make(settings, *EARLIER)
    with connect(settings) as connection:
        connection.execute("INSERT INTO lane (lane) VALUES (7)")
        connection.execute("CREATE TABLE exactly_once_schema_version (version_num text)")
        connection.execute("CREATE VIEW alembic_version AS SELECT version_num FROM exactly_once_schema_version")
        # Prepared before: a connection that was open goes on.
        connection.prepare_threshold = 0
        connection.execute("SELECT lane, position FROM lane")
        make(settings, r0004.upgrade)
        assert connection.execute("SELECT lane, position FROM lane").fetchall() == [(7, 0)]
        with connection.transaction():
            for statement in STATEMENTS:
                connection.execute(statement.encode())
        assert connection.execute("SELECT position FROM exactly_once_lane").fetchall() == [(1,)]
        assert connection.execute("SELECT next_offset FROM exactly_once_position").fetchall() == [(1,)]
        for name, rows in (("outbox", 0), ("claimed", 0), ("inbox", 1), ("dead_letter", 1)):
            assert connection.execute(f"SELECT count(*) FROM exactly_once_{name}".encode()).fetchone() == (rows,), name


def test_the_views_let_a_role_do_what_it_may_do_with_the_table(settings: Settings) -> None:
    role = f"runtime_{uuid.uuid4().hex[:12]}"
    make(settings, *EARLIER)
    with connect(settings) as connection:
        connection.execute(f"CREATE ROLE {role}".encode())
        connection.execute(f"GRANT SELECT, INSERT ON decision TO {role}".encode())
        connection.execute(f"GRANT SELECT, INSERT, DELETE ON inbox TO {role}".encode())
        make(settings, r0004.upgrade)
        # The old `migrate` takes all rights away, and gives back those on tables alone.
        connection.execute(f"REVOKE ALL ON inbox, decision FROM {role}".encode())
        try:
            connection.execute(f"SET ROLE {role}".encode())
            connection.execute("INSERT INTO inbox (source, event_id) VALUES ('a', 'b')")
            connection.execute("DELETE FROM inbox")
            for denied in ("DELETE FROM decision", "UPDATE inbox SET source = ''", "SELECT * FROM outbox"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(denied.encode())
        finally:
            connection.execute("RESET ROLE")
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_the_rename_gives_its_locks_back_and_tries_again(settings: Settings) -> None:
    """While it waits for one table, it blocks the others; so it waits no longer than `lock_timeout`."""

    def rename() -> None:
        op.execute("SET LOCAL lock_timeout = '100ms'")
        r0004.upgrade()

    make(settings, *EARLIER)
    with connect(settings) as watching, connect(settings) as working:
        working.execute("BEGIN; LOCK TABLE decision IN ROW EXCLUSIVE MODE")
        renaming = threading.Thread(target=make, args=(settings, rename))
        renaming.start()
        pauses = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        until(lambda: watching.execute(pauses).fetchone() == (1,), "it pauses")
        working.execute("SET LOCAL lock_timeout = '1s'; INSERT INTO position VALUES ('t', 0, 1); COMMIT")
        renaming.join(SECONDS_MAX)
        assert watching.execute("SELECT count(*) FROM exactly_once_position").fetchone() == (1,)


def test_a_database_that_stopped_between_the_two_renames_goes_on(settings: Settings) -> None:
    """The table of revisions is renamed first, in a transaction of its own; old processes read it through a view."""
    migrate_old(settings)
    engine = create_engine(settings.dsn(SERVICE), poolclass=NullPool)
    with pytest.raises(Misconfigured, match="run `python -m services"):
        refuse_behind(engine, SERVICE)
    with engine.begin() as connection:
        version_table.take_over(connection)
    with connect(settings) as connection:
        assert connection.execute("SELECT max(version_num) FROM alembic_version").fetchone() == ("0003",)
    assert migrate(settings, SERVICE)[0] == f"{SERVICE}: applied 0004_pre_prefix"
    refuse_behind(engine, SERVICE)


def migrate_old(settings: Settings) -> None:
    """Make a database as the previous release leaves it."""
    make(settings, *EARLIER)
    with connect(settings) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
        connection.execute("ALTER TABLE alembic_version ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)")
        connection.execute("INSERT INTO alembic_version VALUES ('0003')")
        connection.execute("INSERT INTO lane (lane) SELECT generate_series(0, 3)")
