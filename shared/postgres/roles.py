"""Two roles: one owns the schema and migrates it, the other runs the code and has only the rights that it needs.

`migrate` grants the rights each time, so that a new table needs no further thought; every start checks them. The
runtime role owns nothing, so it cannot change a table, a trigger or a constraint.
"""

from sqlalchemy import Connection, Engine, text

from ..configuration.program import program
from ..errors import Misconfigured

_ALL = "SELECT, INSERT, UPDATE, DELETE"
_LIBRARY = {
    "exactly_once_schema_version": "SELECT",
    "exactly_once_cluster": "SELECT, INSERT, UPDATE",
    "exactly_once_topic": "SELECT, INSERT, UPDATE",
    "exactly_once_position": "SELECT, INSERT, UPDATE",
    "exactly_once_inbox": "SELECT, INSERT, DELETE",
    "exactly_once_lane": _ALL,
    "exactly_once_outbox": _ALL,
    "exactly_once_schedule": _ALL,
    "exactly_once_claimed": "SELECT, INSERT, DELETE",
    "exactly_once_dead_letter": _ALL,
    "exactly_once_parked": _ALL,
    "exactly_once_stuck_record": _ALL,
    "exactly_once_attempt": _ALL,
    "exactly_once_idempotency_key": _ALL,
    "exactly_once_decision": "SELECT, INSERT",
    "exactly_once_pause": "SELECT, INSERT, DELETE",
    "exactly_once_destination": "SELECT, INSERT, UPDATE",
    "exactly_once_call": _ALL,
}

# Rights on a partitioned table cover its partitions.
_TABLES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind IN ('r', 'p') AND NOT relispartition
    ORDER BY relname
""")

# Sequences of identity columns need no right; separate ones do.
_SEQUENCES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend WHERE objid = pg_class.oid AND classid = CAST('pg_class' AS regclass) AND deptype = 'i'
    )
    ORDER BY relname
""")

_NAMES = text("SELECT current_database(), current_schema()")
_EXISTS = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)")

_MISSING = text("""
    SELECT "right", name FROM unnest(CAST(:names AS text[]), CAST(:rights AS text[])) AS needed (name, "right")
    WHERE NOT has_table_privilege(format('%I.%I', current_schema(), name), "right")
""")

NAMED_MAX = 5
"""Missing rights that a message names; if more are missing, none were granted."""


def rights(table: str) -> str:
    """Return the runtime role's rights on `table`; on a service's own, all but changing its structure."""
    return _LIBRARY.get(table, _ALL)


def _needed(table: str) -> list[str]:
    """Return the rights to check. An unknown table may belong to a newer library, which granted what it saw fit: any
    right will do.
    """
    return _LIBRARY[table].split(", ") if table in _LIBRARY else [_ALL]


def grant(connection: Connection, role: str) -> None:
    """Grant `role` the rights it needs and revoke all others, in the transaction of `connection`.

    Raises `Misconfigured` if the role does not exist.
    """
    if not connection.execute(_EXISTS, {"role": role}).scalar_one():
        raise Misconfigured(f"DATABASE_URL: there is no role {role}; create it first, as docs/deploying.md says")
    quote = connection.dialect.identifier_preparer.quote_identifier  # `quote` does not know each word of SQL
    to = quote(role)
    database, schema = (quote(name) for name in connection.execute(_NAMES).one())
    statements = [
        # Temporary tables are those of `positions adopt`.
        f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {to}",
        f"GRANT USAGE ON SCHEMA {schema} TO {to}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {to}",
    ]
    for name in connection.execute(_TABLES).scalars():
        statements.append(f"GRANT {rights(name)} ON TABLE {schema}.{quote(name)} TO {to}")
    for name in connection.execute(_SEQUENCES).scalars():
        statements.append(f"GRANT USAGE ON SEQUENCE {schema}.{quote(name)} TO {to}")
    for statement in statements:
        connection.execute(text(statement.replace(":", r"\:")))


def refuse_without_rights(engine: Engine, service: str) -> None:
    """Refuse to start as a role that would fail later. Raises `Misconfigured`."""
    with engine.connect() as connection:
        role = engine.url.username or "of DATABASE_URL"
        fix = f"run `{program(service)} migrate` with MIGRATION_DATABASE_URL, which grants it"
        if connection.execute(text("SELECT current_schema() IS NULL")).scalar_one():
            raise Misconfigured(f"DATABASE_URL: the role {role} may not use the schema: {fix}")
        tables = list(connection.execute(_TABLES).scalars())
        needed = [(name, right) for name in tables for right in _needed(name)]
        found = {"names": [name for name, _ in needed], "rights": [right for _, right in needed]}
        missing = [f"{right} on {name}" for right, name in connection.execute(_MISSING, found)]
    if missing:
        more = f" and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
        raise Misconfigured(f"DATABASE_URL: the role {role} lacks {', '.join(missing[:NAMED_MAX])}{more}: {fix}")
