"""The runtime role may do what the code does and no more; the page's own statements create it."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dev.servers import Postgres, Servers
from services.payment.container import PaymentContainer
from shared.command import EXIT_MISCONFIGURED
from shared.postgres import roles, tables
from shared.settings import Settings
from shared.testing import SECONDS_MAX
from shared.testing.api import served
from shared.testing.databases import settings

ROOT = Path(__file__).parents[3]


class Roles:
    """A payment service with two roles, made as docs/deploying.md says."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        mark = uuid.uuid4().hex[:12]
        self.database, self.owner, self.app = (f"{name}_{mark}" for name in ("payment", "payment_owner", "payment_app"))
        page = (ROOT / "docs" / "deploying.md").read_text()
        (script,) = re.findall(r"```sql\n(CREATE ROLE.*?)```", page, re.DOTALL)
        for name in ("payment", "payment_owner", "payment_app"):
            script = re.sub(rf"\b{name}\b", f"{name}_{mark}", script)
        self.admin = f"admin_{mark}"
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            # As on a managed server: no superuser.
            connection.execute(f"CREATE ROLE {self.admin} CREATEROLE CREATEDB".encode())
            connection.execute(f"SET ROLE {self.admin}".encode())
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement.encode())
        self.settings: Settings = settings(postgres, "", database_url=self.url(self.app), **self.migrating())

    def url(self, role: str) -> str:
        """Return the URL of the page."""
        password = {self.owner: "owner-password", self.app: "app-password"}[role]
        _, _, address = self.postgres.dsn(self.database).partition("@")
        return f"postgresql://{role}:{password}@{address}"

    def migrating(self) -> dict[str, str]:
        return {"migration_database_url": self.url(self.owner)}

    def run(self, *words: str, **variables: str) -> tuple[int, str]:
        """Run a command of the service; return its exit code and what it wrote."""
        told = {"DATABASE_URL": self.url(self.app), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", **variables}
        done = subprocess.run(
            (sys.executable, "-m", "services.payment", *words),
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **told},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def migrate(self) -> tuple[int, str]:
        return self.run("migrate", MIGRATION_DATABASE_URL=self.url(self.owner))

    def superuser(self, statement: str) -> None:
        with psycopg.connect(self.postgres.dsn(self.database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def drop(self) -> None:
        self.postgres.drop_database(self.database)
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            for role in (self.app, self.owner, self.admin):
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture(scope="module")
def made(servers: Servers) -> Iterator[Roles]:
    found = Roles(servers.postgres)
    code, output = found.migrate()
    assert code == 0, output
    assert f"{found.app} has its rights" in output
    yield found
    found.drop()


def test_the_api_works_and_writes(made: Roles) -> None:
    with served(PaymentContainer, made.settings) as api:
        assert api.put("/accounts/ada", json={"currency": "EUR"}).status_code == 201
        deposit = {"amount": 500, "currency": "EUR"}
        assert api.post("/accounts/ada/deposits", json=deposit).status_code == 201
        assert api.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more ()",
        "ALTER TABLE account ADD more int",
        "DROP TABLE account",
        "TRUNCATE exactly_once_inbox",
        "ALTER TABLE entry DISABLE TRIGGER ALL",
        "UPDATE exactly_once_schema_version SET version_num = '9999'",
        "UPDATE exactly_once_decision SET command = ''",
        "DELETE FROM exactly_once_decision",
        "DELETE FROM exactly_once_position",
        "CREATE SCHEMA more",
        "CREATE ROLE more",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY account TO PROGRAM 'cat'",
        "ALTER SYSTEM SET fsync = off",
    ],
)
def test_the_runtime_role_can_do_no_more(made: Roles, statement: str) -> None:
    with (
        psycopg.connect(made.url(made.app), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_it_ends_its_own_sessions_and_nobody_elses(made: Roles) -> None:
    """A worker that lost its connection ends its old session, and neither the owner's nor those of others."""
    with (
        psycopg.connect(made.url(made.app), autocommit=True) as connection,
        psycopg.connect(made.url(made.app)) as own,
        psycopg.connect(made.url(made.owner)) as other,
    ):
        ended = connection.execute("SELECT pg_terminate_backend(%s, 5000)", (own.info.backend_pid,)).fetchone()
        assert ended == (True,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))
        seen = connection.execute(
            "SELECT backend_start IS NOT NULL FROM pg_stat_activity WHERE pid = %s", (connection.info.backend_pid,)
        )
        assert seen.fetchone() == (True,)


@pytest.mark.parametrize(
    ("table", "right"),
    [(table, right) for table in sorted(tables.metadata.tables) for right in roles.rights(table).split(", ")]
    + [("exactly_once_schema_version", "SELECT")],
)
def test_a_right_that_is_missing_is_named_at_the_start(made: Roles, table: str, right: str) -> None:
    """This process asks: each start of a program takes a second."""
    from shared.errors import Misconfigured
    from shared.postgres import engine as postgres_engine
    from shared.worker import startup

    engine = postgres_engine.connect(made.settings, "payment", 1)
    made.superuser(f"REVOKE {right} ON {table} FROM {made.app}")
    try:
        with pytest.raises(
            Misconfigured, match=rf"the role {made.app} lacks {right} on {table}: run `python -m services"
        ):
            startup.check_database(engine, PaymentContainer().service())
    finally:
        made.superuser(f"GRANT {right} ON {table} TO {made.app}")
        engine.dispose()


def test_a_table_of_the_service_that_was_made_by_somebody_else_is_named(made: Roles) -> None:
    made.superuser("CREATE TABLE more ()")
    code, output = made.run("api", API_AUTH="on")
    assert code == EXIT_MISCONFIGURED
    assert f"the role {made.app} lacks SELECT, INSERT, UPDATE, DELETE on more" in output
    made.superuser("DROP TABLE more")


def test_a_table_of_a_newer_library_needs_only_what_that_has_granted(made: Roles) -> None:
    """Old processes start on a newer schema."""
    made.superuser("CREATE TABLE newer ()")
    made.superuser(f"GRANT INSERT ON newer TO {made.app}")
    code, output = made.run("api", API_AUTH="on")
    assert code == EXIT_MISCONFIGURED
    assert "API_TOKENS: without a token no one can call" in output  # which is looked at after the rights
    made.superuser("DROP TABLE newer")


@pytest.mark.parametrize("command", ["worker", "api"])
def test_a_role_without_any_right_does_not_start(made: Roles, command: str) -> None:
    made.superuser(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {made.app}")
    code, output = made.run(command, API_AUTH="off")
    assert code == EXIT_MISCONFIGURED, output
    assert f"the role {made.app} lacks" in output
    assert "more: run `python -m services.payment migrate` with MIGRATION_DATABASE_URL" in output
    assert made.migrate()[0] == 0
    code, output = made.run("api", API_AUTH="on")
    assert "API_TOKENS: without a token no one can call" in output  # which is looked at after the rights


@pytest.mark.parametrize(
    ("variable", "url", "words"),
    [
        ("DATABASE_URL", "postgresql://{app}:wrong-secret@{at}", "password authentication failed"),
        ("DATABASE_URL", "postgresql://{app}@{at}", "no password supplied"),
        ("DATABASE_URL", "postgresql://nobody_here:wrong-secret@{at}", "password authentication failed"),
        (
            "DATABASE_URL",
            "postgresql://{app}:app-password@{at}_2",
            "does not exist; create it, or, if the server is that of `make servers`, run that again",
        ),
        ("DATABASE_URL", "postgresql://{app}:app-password@{at}?sslmode=require", "server does not support SSL"),
        ("DATABASE_URL", "postgresql://{app}:app-password@{at}?sslmode=always", "sslmode"),
        ("DATABASE_URL", "postgresql://{app}:app-password@{at}?sslmoed=require", "sslmoed"),
        ("DATABASE_URL", "postgresql://{app}:app-password@{at}?sslmode=verify-full&sslrootcert=/none", "SSL"),
        ("MIGRATION_DATABASE_URL", "postgresql://{owner}:wrong-secret@{at}", "password authentication failed"),
    ],
    ids=[
        *("wrong password", "no password", "no such role", "no such database", "no TLS there", "no such mode"),
        *("no such option", "no root certificate", "wrong password of the owner"),
    ],
)
def test_who_is_not_let_in_ends_and_names_the_setting(made: Roles, variable: str, url: str, words: str) -> None:
    _, _, at = made.url(made.app).partition("@")
    url = url.format(app=made.app, owner=made.owner, at=at)
    for command in ("migrate",) if variable.startswith("MIGRATION") else ("migrate", "worker"):
        code, output = made.run(command, **{variable: url})
        assert code == EXIT_MISCONFIGURED, output
        assert f"{variable}: " in output
        assert words in output
        assert "Traceback" not in output
        assert "secret" not in output
        assert "app-password" not in output


def test_a_role_that_does_not_exist_is_not_granted_anything(made: Roles) -> None:
    url = made.url(made.app).replace(made.app, "nobody_here")
    code, output = made.run("migrate", DATABASE_URL=url, MIGRATION_DATABASE_URL=made.url(made.owner))
    assert code == EXIT_MISCONFIGURED
    assert "DATABASE_URL: there is no role nobody_here; create it first" in output
