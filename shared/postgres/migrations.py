"""The schema of a service's database: brought up to date by one command, checked at every start.

A migration's name says when it runs: `0007_pre_...` before the code that needs it is rolled out, `0008_post_...` when
no old code runs any more. So a process starts on a database that has the last `pre` migration it knows; a pending
`post`, and a database that is newer than the code, are accepted. There are no downgrades: old code runs on the new
schema, and a step back is a new migration.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from ..configuration.program import program, service_folder
from ..errors import Misconfigured
from ..settings import Settings
from ..telemetry.metrics import log
from . import access as postgres_access
from . import database_errors, roles, session_settings, version_table

FOLDER = "migrations"
"""Contains a folder per service."""
ENVIRONMENT = Path(__file__).parent / "alembic"
"""Where Alembic finds its `env.py`."""

_LOCK = 0x45584F4D
"""The migration's advisory lock ("EXOM"); containers that start together take turns."""
_LOCK_SECONDS = 120
_DDL_LOCK_SECONDS = 5
"""A migration that waits for a table blocks all later sessions, so it gives up soon and can be run again."""


_UNLIMITED = {"statement_timeout": 0, "idle_in_transaction_session_timeout": 0}
"""An index on a large table takes hours; limits set for the role's other work must not end it."""


class Migration(NamedTuple):
    """One file of a history. The revision is the number, and numbers grow along the history."""

    revision: str
    phase: str
    name: str


def folder_of(service: str) -> Path:
    """Return the folder with the history of `service`: `migrations/<service>`, somewhere above the package of the
    service, beside a copied library, or in the current folder. Raises `Misconfigured`.
    """
    started = service_folder()
    above = (started, *started.parents) if started is not None else ()
    for place in (*above, Path(__file__).parents[2], Path.cwd()):
        if (found := place / FOLDER / service).is_dir():
            return found
    raise Misconfigured(f"there is no folder {FOLDER}/{service} in or above {started or Path.cwd()}")


def history(service: str) -> list[Migration]:
    """Return the migrations of `service` from their file names, oldest first."""
    found = []
    for path in sorted(folder_of(service).glob("[0-9]*.py")):
        match = re.fullmatch(r"(\d{4})_(pre|post)_\w+", path.stem)
        if match is None:
            raise Misconfigured(f"{path.name} of migrations/{service} is not named like 0001_pre_tables.py")
        found.append(Migration(match[1], match[2], path.stem))
    if not found:
        raise Misconfigured(f"migrations/{service} has no migration")
    return found


def refuse_behind(engine: Engine, service: str) -> None:
    """Refuse to start on a schema without lanes or without a migration that this code needs. Raises `Misconfigured`."""
    needed = [migration for migration in history(service) if migration.phase == "pre"][-1]
    command = f"run `{program(service)} migrate` first"
    with engine.connect() as connection:
        revision = version_table.revision(connection)
        if revision is None:
            raise Misconfigured(f"the database of {service} has no tables yet: {command}")
        if revision < needed.revision:
            raise Misconfigured(
                f"the database of {service} is at migration {revision}, {needed.name} is needed: {command}"
            )
        if not connection.execute(text("SELECT EXISTS (SELECT FROM exactly_once_lane)")).scalar_one():
            raise Misconfigured(f"the database of {service} has no lanes: {command}")


def behind(connection: Connection, service: str) -> list[str]:
    """Name the migrations that `service` has and its database has not."""
    revision = version_table.revision(connection) or ""
    return [migration.name for migration in history(service) if migration.revision > revision]


def migrate(settings: Settings, service: str, *, before_rollout: bool = False, schema: str | None = None) -> list[str]:
    """Bring the database of `service` up to date; return what was done, a line each.

    With `before_rollout`, `post` migrations at the end of the history are left for later. With `schema`, do so in that
    schema, which exists, instead of the one of the role's search path.
    """
    known = history(service)
    if before_rollout:
        known = known[: max(index for index, migration in enumerate(known) if migration.phase == "pre") + 1]
    engine, setting = owner(settings, service)
    with postgres_access.connect(engine, setting) as connection, _permitted(setting, engine.url.username):
        if schema is not None:
            quote = connection.dialect.identifier_preparer.quote_identifier
            connection.execute(text(f"SET search_path TO {quote(schema)}"))
        session_settings.refuse_unfit(connection, setting)
        connection.execute(text(f"SET lock_timeout = '{_LOCK_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        connection.execute(text(f"SET lock_timeout = '{_DDL_LOCK_SECONDS}s'"))
        connection.commit()
        version_table.take_over(connection)
        revision = version_table.revision(connection) or ""
        connection.commit()
        pending = [migration for migration in known if migration.revision > revision]
        if pending:
            _upgrade(connection, service, pending[-1].revision)
        lanes = _seed_lanes(connection, settings.partitions)
        connection.commit()
        role = runtime_role(settings, service)
        if role is not None:
            roles.grant(connection, role)
            connection.commit()
    done = [f"{service}: applied {migration.name}" for migration in pending]
    if revision > known[-1].revision:
        done.append(
            f"{service}: the database is at {revision}, newer than this code ({known[-1].revision}); nothing to do"
        )
    elif not pending:
        done.append(f"{service}: up to date at {known[-1].name}")
    if lanes:
        done.append(f"{service}: made {lanes} lanes")
    if role is not None:
        done.append(f"{service}: {role} has its rights")
    for line in done:
        log.info("migrated", done=line if schema is None else f"{line}, in schema {schema}")
    return done


def owner(settings: Settings, service: str) -> tuple[Engine, str]:
    """Make the engine of the role that owns the tables; return it with the name of its URL's setting."""
    session_settings.forget_libpq_variables()
    # Through a pooler, which refuses options, only if no direct way is set.
    pooled = settings.database_pooler and not settings.migration_database_url
    session = {} if pooled else {"options": session_settings.options(_UNLIMITED)}
    engine = create_engine(
        settings.migration_dsn(service), poolclass=NullPool, hide_parameters=True, connect_args=session
    )
    database_errors.install(engine)
    return engine, "MIGRATION_DATABASE_URL" if settings.migration_database_url else "DATABASE_URL"


@contextmanager
def _permitted(setting: str, role: str | None) -> Iterator[None]:
    """Raise `Misconfigured` if the role may not change the schema: a retry would not help."""
    try:
        yield
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise Misconfigured(
                f"{setting}: the role {role} may not change the schema: {error.orig.diag.message_primary}. Set "
                "MIGRATION_DATABASE_URL to a role that may; or GRANT CREATE ON SCHEMA public to this one "
                "(docs/deploying.md)"
            ) from error
        raise


def runtime_role(settings: Settings, service: str) -> str | None:
    """Return the runtime role's name, if another role migrates. Raises `Misconfigured` if it has no name."""
    if not settings.migration_database_url:
        return None
    runs, migrates = (make_url(dsn).username for dsn in (settings.dsn(service), settings.migration_dsn(service)))
    if runs is None:
        raise Misconfigured("DATABASE_URL: must name a user, to whom `migrate` grants the rights of the service")
    return None if runs == migrates else runs


def _upgrade(connection: Connection, service: str, revision: str) -> None:
    # Imported here: only this command needs it, and a worker must start fast.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(ENVIRONMENT))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(folder_of(service)))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table.NAME
    command.upgrade(config, revision)
    connection.commit()


def _seed_lanes(connection: Connection, lanes: int) -> int:
    """Create the lanes of a new database; afterwards only the command that drains them changes their number."""
    made = connection.execute(
        text("""
            INSERT INTO exactly_once_lane (lane) SELECT number FROM generate_series(0, :last) AS number
            WHERE NOT EXISTS (SELECT FROM exactly_once_lane)
        """),
        {"last": lanes - 1},
    )
    return made.rowcount
