"""A migrated database is what the code expects; it gets there once, from any state, with any number of starts."""

import importlib.util
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, NullPool, create_engine

from dev.servers import Servers
from shared.errors import Misconfigured
from shared.postgres import migrations, tables, version_table
from shared.postgres.migrations import behind, history, migrate, refuse_behind
from shared.settings import Settings
from shared.testing.databases import settings as make_settings

SERVICES = sorted(path.parent.name for path in Path("services").glob("*/models.py"))
SERVICE = SERVICES[0]
"""The service whose history is lengthened; any will do."""

# Everything about a schema that a client can notice, and the settings that vacuum obeys.
CATALOG = (
    """
    SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
           pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum), a.attcompression
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
    """,
    """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    """,
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT relname, reloptions::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
    "SELECT sequencename, cache_size FROM pg_sequences",
)

Databases = Callable[[], Settings]


@pytest.fixture
def empty(servers: Servers) -> Iterator[Databases]:
    """Make a database without tables for each service."""
    suffixes: list[str] = []

    def make() -> Settings:
        suffixes.append(f"_{uuid.uuid4().hex[:12]}")
        for service in SERVICES:
            servers.postgres.create_database(service + suffixes[-1])
        return make_settings(servers.postgres, suffixes[-1])

    yield make
    for suffix in suffixes:
        for service in SERVICES:
            servers.postgres.drop_database(service + suffix)


def query(settings: Settings, service: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(settings.dsn(service).replace("+psycopg", "")) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def catalog(settings: Settings, service: str) -> list[list[tuple[Any, ...]]]:
    rows = [sorted(query(settings, service, statement), key=str) for statement in CATALOG]
    return [[row for row in part if not row[0].startswith("exactly_once_schema_version")] for part in rows]


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrated_schema_is_that_of_the_models(service: str, empty: Databases) -> None:
    migrated, created = empty(), empty()
    migrate(migrated, service)
    base = importlib.import_module(f"services.{service}.models").Base
    engine = create_engine(created.dsn(service), poolclass=NullPool)
    tables.metadata.create_all(engine)
    base.metadata.create_all(engine)
    assert catalog(migrated, service) == catalog(created, service)

    engine = create_engine(migrated.dsn(service), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_server_default": True, "version_table": version_table.NAME}
        )
        together = MetaData()
        for table in [*tables.metadata.tables.values(), *base.metadata.tables.values()]:
            table.to_metadata(together)
        assert compare_metadata(context, together) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_history_is_one_line_and_promises_no_way_back(service: str) -> None:
    previous = None
    for migration in history(service):
        path = migrations.folder_of(service) / f"{migration.name}.py"
        spec = importlib.util.spec_from_file_location(f"{service}_{migration.name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert (module.revision, module.down_revision) == (migration.revision, previous)
        assert not hasattr(module, "downgrade")
        previous = migration.revision


def test_migrating_makes_the_lanes_once(empty: Databases, longer: Path) -> None:
    settings = empty().model_copy(update={"partitions": 3})
    applied = [f"{SERVICE}: applied {migration.name}" for migration in history(SERVICE)]
    assert migrate(settings, SERVICE) == [*applied, f"{SERVICE}: made 3 lanes"]
    query(settings, SERVICE, "UPDATE exactly_once_lane SET position = 7 WHERE lane = 1")
    more = settings.model_copy(update={"partitions": 8})
    assert migrate(more, SERVICE) == [f"{SERVICE}: up to date at {history(SERVICE)[3].name}"]
    lanes = query(settings, SERVICE, "SELECT lane, position, claim_id, row_ids FROM exactly_once_lane ORDER BY lane")
    assert lanes == [(0, 0, None, []), (1, 7, None, []), (2, 0, None, [])]


def test_several_may_migrate_at_once(empty: Databases) -> None:
    settings = empty()
    with ThreadPoolExecutor(4) as pool:
        done = [future.result() for future in [pool.submit(migrate, settings, SERVICE) for _ in range(4)]]
    assert sorted(len(lines) for lines in done) == [1, 1, 1, 1 + len(history(SERVICE))]


def test_a_process_refuses_an_empty_database(empty: Databases) -> None:
    engine = create_engine(empty().dsn(SERVICE), poolclass=NullPool)
    with pytest.raises(Misconfigured, match="run `python -m services"):
        refuse_behind(engine, SERVICE)


def test_a_process_refuses_a_database_without_lanes(empty: Databases) -> None:
    settings = empty()
    migrate(settings, SERVICE)
    query(settings, SERVICE, "DELETE FROM exactly_once_lane")
    engine = create_engine(settings.dsn(SERVICE), poolclass=NullPool)
    with pytest.raises(Misconfigured, match="no lanes"):
        refuse_behind(engine, SERVICE)


@pytest.fixture
def longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the start of a service's history, for a test to add to."""
    for path in Path("migrations", SERVICE).glob("000[1-4]_*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    for number in range(len(list(tmp_path.iterdir())) + 1, 5):  # a service that was made since begins with all of it
        add(tmp_path, number, "pre")
    monkeypatch.setattr(migrations, "folder_of", lambda _: tmp_path)
    return tmp_path


def add(history_folder: Path, number: int, phase: str) -> None:
    text = (
        "from alembic import op\n"
        f'revision = "{number:04}"\ndown_revision = "{number - 1:04}"\n'
        f'def upgrade() -> None:\n    op.execute("CREATE TABLE t{number} ()")\n'
    )
    (history_folder / f"{number:04}_{phase}_more.py").write_text(text)


def test_a_start_needs_the_last_pre_migration_and_no_post_one(empty: Databases, longer: Path) -> None:
    settings = empty()
    migrate(settings, SERVICE)
    engine = create_engine(settings.dsn(SERVICE), poolclass=NullPool)

    add(longer, 5, "post")
    refuse_behind(engine, SERVICE)
    with engine.connect() as connection:
        assert behind(connection, SERVICE) == ["0005_post_more"]
    assert migrate(settings, SERVICE, before_rollout=True) == [f"{SERVICE}: up to date at {history(SERVICE)[3].name}"]

    add(longer, 6, "pre")
    add(longer, 7, "post")
    with pytest.raises(Misconfigured, match="0006_pre_more"):
        refuse_behind(engine, SERVICE)
    applied = migrate(settings, SERVICE, before_rollout=True)
    assert applied == [f"{SERVICE}: applied 0005_post_more", f"{SERVICE}: applied 0006_pre_more"]
    refuse_behind(engine, SERVICE)
    assert migrate(settings, SERVICE) == [f"{SERVICE}: applied 0007_post_more"]


def test_old_code_accepts_a_newer_database(empty: Databases, longer: Path) -> None:
    settings = empty()
    add(longer, 5, "pre")
    migrate(settings, SERVICE)
    (longer / "0005_pre_more.py").unlink()
    engine = create_engine(settings.dsn(SERVICE), poolclass=NullPool)
    refuse_behind(engine, SERVICE)
    assert migrate(settings, SERVICE) == [
        f"{SERVICE}: the database is at 0005, newer than this code (0004); nothing to do"
    ]


def test_a_migration_that_fails_leaves_the_one_before(empty: Databases, longer: Path) -> None:
    settings = empty()
    add(longer, 5, "pre")
    add(longer, 6, "pre")
    (longer / "0006_pre_more.py").write_text((longer / "0006_pre_more.py").read_text().replace("t6 ()", "t6 ("))
    with pytest.raises(Exception, match="syntax error"):
        migrate(settings, SERVICE)
    assert query(settings, SERVICE, "SELECT version_num FROM exactly_once_schema_version") == [("0005",)]
    add(longer, 6, "pre")
    assert migrate(settings, SERVICE)[0] == f"{SERVICE}: applied 0006_pre_more"


@pytest.mark.parametrize("name", ["0005_more.py", "3_pre_more.py", "0005_later_more.py"])
def test_a_migration_whose_name_says_no_phase_is_refused(longer: Path, name: str) -> None:
    (longer / name).write_text("")
    with pytest.raises(Misconfigured, match=name):
        history(SERVICE)
