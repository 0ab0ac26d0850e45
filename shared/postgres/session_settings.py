"""Settings of a PostgreSQL session, independent of the surroundings: libpq's variables are dropped, and defaults of a
server, database or role are overridden in every session, or refused at the start.
"""

import os
from collections.abc import Mapping

from psycopg import pq
from sqlalchemy import Connection, text

from ..errors import DatabaseUnavailable, Misconfigured
from ..telemetry.metrics import log

SESSION = {
    # How values are written and read; the driver knows these forms only.
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "array_nulls": "on",
    "xmlbinary": "base64",
    "xmloption": "content",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    # What a statement means.
    "transform_null_equals": "off",
    "row_security": "on",
    "gin_fuzzy_search_limit": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # An acknowledged commit lasts; one that may not last comes with a warning.
    "synchronous_commit": "on",
    "client_min_messages": "notice",
    # A worker's session may idle as long as nothing happens, and an error ends the transaction, not the session.
    "idle_session_timeout": "0",
    "exit_on_error": "off",
}
"""Settings of all our sessions. Any role may set each of them, and PostgreSQL 16 knows them all."""

NOT_OF_CONNECTIONS = frozenset(
    {
        *("PGSERVICEFILE", "PGSYSCONFDIR", "PGLOCALEDIR", "PGTZ", "PGDATESTYLE", "PGGEQO", "PGREQUIRESSL"),
        *("PGSSLKEYLOGFILE", "PGOAUTHDEBUG", "PGOAUTHCAFILE"),
    }
)
"""Variables of libpq without a connection parameter, or with one that only newer versions have.
https://www.postgresql.org/docs/current/libpq-envars.html
"""

MAY_DIFFER = frozenset(
    {
        *("TimeZone", "extra_float_digits", "lc_monetary", "lc_numeric", "lc_time", "synchronous_commit"),
        "idle_session_timeout",
    }
)
"""Behind a pooler, which takes no options, these may have other values: none affects what we write, or another check
covers it.
"""

TRANSACTION_MS_MIN = 30_000
"""`transaction_timeout`, new in PostgreSQL 17, must leave room for a statement's own timeout."""


def libpq_variables() -> list[str]:
    """Return the variables of libpq that are set, by name."""
    known = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar} | NOT_OF_CONNECTIONS
    return sorted(known & os.environ.keys())


def forget_libpq_variables() -> None:
    """Remove libpq's variables from our environment and our children's: the URL alone says where to connect, as whom
    and how.
    """
    if found := libpq_variables():
        for name in found:
            del os.environ[name]
        log.warning("libpq_variables_ignored", names=found, hint="only DATABASE_URL counts; put them into it")


def options(more: Mapping[str, object]) -> str:
    """Format SESSION and `more` as a connection's `options`."""
    return " ".join(
        f"-c {name}={str(value).replace(' ', chr(92) + ' ')}" for name, value in {**SESSION, **more}.items()
    )


def refuse_unfit(connection: Connection, setting: str) -> None:
    """Refuse a session with unfit settings; `setting` names its URL's setting. Raises `Misconfigured`, or
    `DatabaseUnavailable` for a standby: it may be promoted.
    """
    found = _settings(connection)
    if connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one():
        raise DatabaseUnavailable(
            f"{setting}: leads to a standby, which is read-only; name the primary, or all hosts and "
            "target_session_attrs=read-write: postgresql://user:password@one:5432,two:5432/name?target_session_attrs="
            "read-write"
        )
    wrong = {"default_transaction_read_only": "off", "session_replication_role": "origin"}
    for name, wanted in (wrong | SESSION).items():
        if name not in MAY_DIFFER and not _alike(found[name.lower()], wanted):
            raise Misconfigured(_unfit(setting, name, found[name.lower()], wanted))
    if 0 < (milliseconds := int(found.get("transaction_timeout", 0))) < TRANSACTION_MS_MIN:
        raise Misconfigured(_unfit(setting, "transaction_timeout", f"{milliseconds} ms", "0"))
    path = connection.execute(text("SELECT current_schemas(TRUE), current_schema()")).one()
    schemas = [name for name in path[0] if not name.startswith("pg_temp")]
    if path[1] is None or schemas[0] != "pg_catalog":
        raise Misconfigured(_unfit(setting, "search_path", found["search_path"], '"$user", public'))


def _settings(connection: Connection) -> dict[str, str]:
    rows = connection.execute(text("SELECT lower(name), setting FROM pg_settings"))
    return {row[0]: row[1] for row in rows}


def _alike(found: str, wanted: str) -> bool:
    # The order of day and month matters only for input without the month's name.
    return found.lower().split(",")[0] == wanted.lower().split(",")[0]


def _unfit(setting: str, name: str, found: str, wanted: str) -> str:
    return (
        f"{setting}: sessions have {name} = {found}, and {wanted} is needed. Look at the defaults of the role and the "
        f"database (\\drds in psql), and at postgresql.conf; correct the role's "
        f"with ALTER ROLE ... SET {name} = {wanted if wanted.isalnum() else repr(wanted)}"
    )
