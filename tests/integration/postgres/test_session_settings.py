"""Defaults of a server, a role or the environment decide nothing: the library sets them, or refuses them by name."""

import re
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import CapturingLogger

from dev.servers import Servers
from dev.servers.places import free_port
from services.order.container import OrderContainer
from services.order.settings import OrderSettings
from shared.errors import Misconfigured
from shared.postgres import engine as postgres_engine
from shared.postgres import session_settings
from shared.postgres.migrations import migrate
from shared.settings import Settings
from shared.testing.api import served
from shared.testing.databases import migrated

HOSTILE = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "America/St_Johns",
    "bytea_output": "escape",
    "extra_float_digits": "-10",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "array_nulls": "off",
    "xmlbinary": "hex",
    "xmloption": "document",
    "transform_null_equals": "on",
    "row_security": "off",
    "gin_fuzzy_search_limit": "1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "client_min_messages": "error",
    "idle_session_timeout": "1",
    "exit_on_error": "on",
    "idle_in_transaction_session_timeout": "1",
    "lock_timeout": "1",
    "statement_timeout": "1",
}
"""Defaults that would make us write other values, not wait, or believe in lost commits."""

LOCALES = {"lc_monetary", "lc_numeric", "lc_time"}
"""The tests' server knows only one."""


@pytest.fixture(scope="module")
def settings(servers: Servers) -> Iterator[Settings]:
    with migrated(servers.postgres, "order") as found:
        yield found


def alter(settings: Settings, statement: str) -> None:
    """Alter the database as its owner, in a session without the defaults; `{}` stands for its name."""
    url = settings.migration_dsn("order").replace("+psycopg", "")
    name = url.rpartition("/")[2]
    with psycopg.connect(url.replace(name, "postgres"), autocommit=True) as connection:
        connection.execute(statement.replace("{}", f'"{name}"').encode())


@pytest.fixture
def hostile(settings: Settings) -> Iterator[None]:
    """A database with every default against us."""
    for name, value in HOSTILE.items():
        alter(settings, f"ALTER DATABASE {{}} SET {name} = '{value}'")
    yield
    alter(settings, "ALTER DATABASE {} RESET ALL")


def test_each_setting_that_is_set_was_tried_with_a_hostile_default() -> None:
    assert session_settings.SESSION.keys() - LOCALES <= HOSTILE.keys()


@pytest.mark.usefixtures("hostile")
def test_no_default_of_a_database_decides_anything(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.order.api.settings", OrderSettings.model_construct)
    engine = postgres_engine.connect(settings, "order", 1)
    postgres_engine.refuse_unsafe(engine)
    with engine.connect() as connection:
        found = {row[0]: row[1] for row in connection.execute(text("SELECT name, setting FROM pg_settings"))}
        assert {name: found[name].replace(" ", "") for name in session_settings.SESSION} == {
            name: value.replace(" ", "") for name, value in session_settings.SESSION.items()
        }
        assert found["lock_timeout"] == str(postgres_engine.LOCK_TIMEOUT_MS)
    engine.dispose()

    assert migrate(settings, "order")
    with served(OrderContainer, settings) as orders:
        order = {"account": "ada", "lines": [{"sku": "tea", "quantity": 1}]}
        for _ in range(2):
            assert orders.post("/orders", json=order).status_code == 201
        assert len(orders.get("/orders").json()["orders"]) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_transaction_read_only", "on"),
        ("session_replication_role", "replica"),
        ("search_path", "nowhere"),
        ("search_path", "public, pg_catalog"),
        ("transaction_timeout", "'1s'"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(settings: Settings, name: str, value: str) -> None:
    alter(settings, f"ALTER DATABASE {{}} SET {name} = {value}")
    engine = postgres_engine.connect(settings, "order", 1)
    try:
        with pytest.raises(Misconfigured, match=rf"DATABASE_URL: sessions have {name} = "):
            postgres_engine.refuse_unsafe(engine)
        with pytest.raises(Misconfigured, match=rf"DATABASE_URL: sessions have {name} = "):
            migrate(settings, "order")
    finally:
        engine.dispose()
        alter(settings, f"ALTER DATABASE {{}} RESET {name}")


def test_no_variable_of_libpq_reaches_a_connection(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(session_settings, "log", log)
    wrong = {
        **dict.fromkeys(("PGSSLMODE", "PGGSSENCMODE", "PGCHANNELBINDING"), "require"),
        "PGOPTIONS": "-c nothing=1",
        "PGSERVICE": "nowhere",
        "PGTARGETSESSIONATTRS": "standby",
        "PGREQUIREAUTH": "none",
        "PGSSLROOTCERT": "/nowhere",
        "PGDATESTYLE": "German",
        "PGTZ": "Asia/Tokyo",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)

    engine = postgres_engine.connect(settings, "order", 1)

    postgres_engine.refuse_unsafe(engine)
    engine.dispose()
    (call,) = log.calls
    assert call.args == ("libpq_variables_ignored",)
    assert call.kwargs["names"] == sorted(wrong)


@pytest.mark.parametrize("alive", ["first", "last"])
def test_one_of_several_hosts_is_enough(settings: Settings, alive: str) -> None:
    """The URL of a cluster that fails over names all its hosts."""
    url = settings.dsn("order")
    found = re.search(r"@([^/]+)/", url)
    assert found
    dead = f"127.0.0.1:{free_port()}"
    hosts = f"{found[1]},{dead}" if alive == "first" else f"{dead},{found[1]}"
    several = settings.model_copy(update={"database_url": SecretStr(url.replace(found[1], hosts))})

    engine = postgres_engine.connect(several, "order", 1)

    postgres_engine.refuse_unsafe(engine)
    engine.dispose()


def test_a_role_that_may_not_make_tables_is_refused(settings: Settings, servers: Servers) -> None:
    role = f"guest_{uuid.uuid4().hex[:12]}"
    servers.postgres.create_role(role)
    servers.postgres.create_database(role)
    try:
        guest = settings.model_copy(
            update={
                "database_url": SecretStr(servers.postgres.dsn(role, role)),
                "migration_database_url": SecretStr(""),
            }
        )
        with pytest.raises(Misconfigured, match=rf"DATABASE_URL: the role {role} may not change the schema"):
            migrate(guest, "order")
    finally:
        servers.postgres.drop_database(role)
