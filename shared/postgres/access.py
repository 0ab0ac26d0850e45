"""Classify failures to connect to PostgreSQL: a wrong setting stops the process and is named, others are retried."""

from psycopg.errors import OperationalError as PsycopgOperationalError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseUnavailable, Misconfigured

# PostgreSQL sends a code with each of these, but libpq does not expose it. The texts are those of a server whose
# lc_messages is English. In other languages, and for texts not listed, the process restarts, which is harmless.
_DATABASE_DENIES = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "is not permitted to log in",
    "permission denied for database",
    '" does not exist',  # a role or a database
    "server does not support SSL",
    "certificate verify failed",
    "server certificate for",
    "root certificate file",
    ' value: "',  # invalid sslmode value: "always"
    "invalid port number",
    "could not load private key file",
    "could not read certificate file",
)


def connect(engine: Engine, setting: str = "DATABASE_URL") -> Connection:
    """Open a connection; `setting` names the URL's setting. Raises `Misconfigured` if PostgreSQL refuses us for good,
    `DatabaseUnavailable` if not.
    """
    try:
        return engine.connect()
    except DBAPIError as error:
        raise no_connection(error, setting) from error


def no_connection(error: DBAPIError, setting: str = "DATABASE_URL") -> Misconfigured | DatabaseUnavailable:
    """Classify a failure to connect to PostgreSQL."""
    detail = " ".join(str(error.orig).split())
    if not isinstance(error.orig, PsycopgOperationalError):  # the URL has an option that libpq does not know
        return Misconfigured(f"{setting}: {detail}")
    if "unsupported startup parameter" in detail:  # PgBouncer's words
        return Misconfigured(f"{setting}: leads to a pooler, so DATABASE_POOLER=true is needed: {detail}")
    if 'database "' in detail and detail.endswith("does not exist"):
        return Misconfigured(
            f"{setting}: {detail}; create it, or, if the server is that of `make servers`, run that again"
        )
    if any(words in detail for words in _DATABASE_DENIES):
        return Misconfigured(f"{setting}: PostgreSQL does not let us in: {detail}")
    return DatabaseUnavailable(f"{setting}: no connection to PostgreSQL; is it up? {detail}")
