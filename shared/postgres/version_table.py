"""The table that holds Alembic's revision of the schema. Its default name, `alembic_version`, is left to services that
run their own Alembic in the same schema; up to release 4 of the library's tables it was ours.
"""

from sqlalchemy import Connection, inspect, text

NAME = "exactly_once_schema_version"
BEFORE = "alembic_version"

# Our revisions are four digits, others are hashes.
_OURS = text(r"SELECT coalesce(bool_and(version_num ~ '^\d{4}$'), false) FROM alembic_version")
_TAKE_OVER = (
    f"ALTER TABLE {BEFORE} RENAME TO {NAME}",
    f"ALTER TABLE {NAME} RENAME CONSTRAINT {BEFORE}_pkc TO {NAME}_pkc",
    # For processes of the previous version, until `r0004.remove_old_names`; runs with the caller's rights.
    f"CREATE VIEW {BEFORE} WITH (security_invoker = true) AS SELECT version_num FROM {NAME}",  # noqa: S608 - constants
    f"GRANT SELECT ON {BEFORE} TO PUBLIC",
)


def revision(connection: Connection) -> str | None:
    """Return the revision of the schema, or None if it has no tables of the library."""
    if inspect(connection).has_table(NAME):
        return connection.execute(text(f"SELECT max(version_num) FROM {NAME}")).scalar_one_or_none()  # noqa: S608
    if _is_old(connection):
        return connection.execute(text(f"SELECT max(version_num) FROM {BEFORE}")).scalar_one_or_none()  # noqa: S608
    return None


def take_over(connection: Connection) -> None:
    """Rename the table in a database that an earlier version created."""
    if not inspect(connection).has_table(NAME) and _is_old(connection):
        for statement in _TAKE_OVER:
            connection.execute(text(statement))


def _is_old(connection: Connection) -> bool:
    return inspect(connection).has_table(BEFORE) and bool(connection.execute(_OURS).scalar_one())
