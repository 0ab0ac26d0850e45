"""`replay switch`: tables of a replay take the places of the live ones, in one transaction, while no worker works.

Both are at the same offsets then, so each record has its effect once in the new tables: those before from the replay,
those after from the workers. The tables that were live are kept in a schema of their own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ..errors import CommandFailed
from ..postgres import access as postgres_access
from ..postgres import roles, version_table
from ..postgres.access import no_connection
from ..postgres.migrations import owner, runtime_role
from ..protocol.ports import Input
from . import maintenance, replay_schema
from .decisions import refuse_other
from .maintenance import Context, Maintenance
from .output import echo
from .replay_schema import REPLAY, ReplayDatabase, quoted

NAMED_MAX = 5
"""Obstacles that a message names."""

LOCK_SECONDS = 5
"""A request may hold a table. All later ones wait behind this command, so it gives up soon."""

_OPEN = text("""
    SELECT topic, partition, "offset" FROM exactly_once_dead_letter
    WHERE redriven_at IS NULL AND dismissed_at IS NULL AND topic = ANY(:topics)
""")
# What a rewind behind it has handled after all took effect, and so did what was redriven.
_DISMISSED = text("""
    SELECT topic, partition, "offset" FROM exactly_once_dead_letter AS letter
    JOIN exactly_once_position USING (topic, partition, epoch)
    WHERE dismissed_at IS NOT NULL AND topic = ANY(:topics)
        AND NOT EXISTS (
            SELECT FROM exactly_once_dead_letter AS other
            WHERE (other.topic, other.partition, other."offset") = (letter.topic, letter.partition, letter."offset")
                AND redriven_at IS NOT NULL
        )
        AND NOT EXISTS (
            SELECT FROM exactly_once_decision
            WHERE command = 'positions rewind' AND source = letter.topic || '[' || letter.partition || ']'
                AND decided_at > letter.dismissed_at
        )
""")
# What was dismissed and has its effect in the new tables: another redrive would be its second.
_HANDLED = """
    UPDATE exactly_once_dead_letter AS live SET redriven_at = clock_timestamp()
    FROM {into}.exactly_once_replay_input AS replayed
    WHERE dismissed_at IS NOT NULL AND redriven_at IS NULL
        AND (replayed.topic, replayed.partition, replayed.epoch) = (live.topic, live.partition, live.epoch)
        AND "offset" >= first_offset
        AND NOT EXISTS (
            SELECT FROM {into}.exactly_once_dead_letter AS again
            WHERE (again.topic, again.partition, again.epoch, again."offset")
                = (live.topic, live.partition, live.epoch, live."offset")
        )
"""
_PARKED = text("SELECT count(*) FROM exactly_once_parked")
_TABLES = text("""
    SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relkind IN ('r', 'p')
        AND NOT relispartition AND relname NOT LIKE 'exactly\\_once\\_%'
""")
# What is in the live schema and in all others that stay: the columns, also those of views, and what belongs to tables.
_INVENTORY = text("""
    WITH staying AS (
        SELECT pg_class.oid, CASE WHEN relnamespace = CAST(current_schema() AS regnamespace) THEN relname
            ELSE nspname || '.' || relname END AS name
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname <> ALL(:leaving) AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
    )
    SELECT 'column ' || name || '.' || attname FROM pg_attribute JOIN staying ON oid = attrelid
        WHERE attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'default of ' || name || '.' || attname FROM pg_attrdef JOIN staying ON staying.oid = adrelid
        JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
    UNION ALL
    SELECT 'constraint ' || conname || ' of ' || name FROM pg_constraint JOIN staying ON staying.oid = conrelid
    UNION ALL
    SELECT 'trigger ' || tgname || ' of ' || name FROM pg_trigger JOIN staying ON staying.oid = tgrelid
        WHERE NOT tgisinternal
""")


def switch(context: Context, *, into: str, tables: Sequence[str], reason: str, yes: bool) -> None:
    """Put `tables` of the replay in the places of the live ones. Raises `CommandFailed`."""
    replay_schema.refuse_name(into)
    tables = sorted(set(tables))
    with maintenance.maintenance(context) as paused:
        begun = replay_schema.begun(paused.connection, into)
        if begun is None or begun.service != context.service.name:
            raise CommandFailed(f"there is no replay of {context.service.name} into a schema {into}")
        if begun.switched:
            raise CommandFailed(f"{into} was switched before: begin another replay")
        for topic in context.service.consumed_topics:
            refuse_other(paused, topic)
        with replay_schema.database(context, into) as database:
            stands = _refuse_apart(paused, database, into)
            kept = f"{into}_before"
            if begun.words != "--from beginning":
                echo(f"the replay was begun with {begun.words}: its tables have nothing of what came before")
            maintenance.confirm(
                f"{', '.join(tables)} of {into} take the places of the live ones, which move to the schema {kept}; go "
                f"on?",
                yes=yes,
            )
            engine, setting = owner(context.settings, context.service.name)
            decision = {"reason": reason, "tables": tables, "kept": kept, **stands}
            try:
                opened = postgres_access.connect(engine, setting)
                _carry_out(context, opened, into=into, kept=kept, tables=tables, decision=decision)
            except DBAPIError as error:
                raise _meaning(error, engine, setting) from error
    echo(f"{', '.join(tables)} of {into} are live; those before are in {kept}. Start the workers")


def _refuse_apart(paused: Maintenance, database: ReplayDatabase, into: str) -> dict[str, int]:
    """Refuse a replay that is not where the workers are; return where that is."""
    context, windows, live = paused.context, database.windows(), replay_schema.live(paused.connection)
    consumed = {source for source in live if source.topic in context.service.consumed_topics}
    again = context.command(f"replay run --into {into}")
    for source in sorted(consumed):
        if source not in windows:
            raise CommandFailed(f"the replay into {into} leaves {source} out: begin another one, without --target")
        if windows[source].epoch != live[source].epoch:
            raise CommandFailed(f"{source}: its offsets were used again since: drop the schema {into}, and begin anew")
        if windows[source].first != live[source].next_offset:
            raise CommandFailed(
                f"{source}: the workers stand at {live[source].next_offset}, the replay at {windows[source].first}: "
                f"run {again} while no worker works"
            )
    topics = {"topics": list(context.service.consumed_topics)}
    with paused.connection.begin():
        theirs, waiting = set(paused.connection.execute(_OPEN, topics)), paused.connection.scalar(_PARKED)
        dismissed = set(paused.connection.execute(_DISMISSED, topics))
    with database.engine.begin() as connection:
        ours, waiting_here = set(connection.execute(_OPEN, topics)), connection.scalar(_PARKED)
    if waiting:
        raise CommandFailed(
            f"{waiting:,} records are parked: their effects would be missing, or come twice. Start the workers and "
            f"wait until {context.command('parked list')} is empty, or decide: give them up, and redrive or dismiss "
            f"the dead letters that hold a key"
        )
    if waiting_here:
        raise CommandFailed(
            f"{waiting_here:,} records wait in {into}.exactly_once_parked: their effects would be missing. Run {again} "
            f"when what they need is there; or mend the handler, drop the schema and begin again"
        )
    apart = sorted((theirs - ours) | (ours - theirs - dismissed))
    if apart:
        places = ", ".join(f"{Input(topic, n)} offset {offset}" for topic, n, offset in apart[:NAMED_MAX])
        raise CommandFailed(
            f"{len(apart):,} records are dead letters only live or only in the replay: {places}. Redrive or dismiss "
            f"those that are live. As for those of the replay, mend the handler, drop the schema and begin again"
        )
    return {str(source): live[source].next_offset for source in sorted(consumed)}


def _carry_out(
    context: Context, opened: Connection, *, into: str, kept: str, tables: Iterable[str], decision: dict[str, Any]
) -> None:
    with opened as connection, connection.begin():
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        schema = connection.execute(text("SELECT current_schema()")).scalar_one()
        _refuse_other_revision(context, connection, into)
        for place in (schema, into):
            there = set(connection.execute(_TABLES, {"schema": quoted(place)}).scalars())
            if missing := sorted(set(tables) - there):
                own = ", ".join(sorted(there)) or "none"
                raise CommandFailed(f"{place} has no table {', '.join(missing)} of the service; it has {own}")
        if connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": quoted(kept)}).scalar_one():
            raise CommandFailed(f"the schema {kept} exists, and those before would move there: drop or rename it")
        connection.execute(text(f"CREATE SCHEMA {quoted(kept)}"))
        for table in tables:
            connection.execute(text(f"ALTER TABLE {quoted(schema)}.{quoted(table)} SET SCHEMA {quoted(kept)}"))
            connection.execute(text(f"ALTER TABLE {quoted(into)}.{quoted(table)} SET SCHEMA {quoted(schema)}"))
        _refuse_tied(connection, into, kept)
        connection.execute(text(_HANDLED.format(into=quoted(into))))
        connection.execute(text(f"UPDATE {quoted(into)}.{REPLAY} SET switched_at = clock_timestamp()"))  # noqa: S608
        maintenance.decided(connection, "replay switch", into, {"tables": f"in {kept}"}, decision)
        if (role := runtime_role(context.settings, context.service.name)) is not None:
            roles.grant(connection, role)


def _refuse_other_revision(context: Context, connection: Connection, into: str) -> None:
    live, revision = version_table.revision(connection), version_table.NAME
    replayed = connection.execute(text(f"SELECT max(version_num) FROM {quoted(into)}.{revision}")).scalar_one()  # noqa: S608
    if live not in (None, replayed):
        raise CommandFailed(
            f"the live tables are at migration {live}, those of {into} at {replayed}: run {context.command('migrate')} "
            f"and {context.command(f'replay run --into {into}')} with the same version of the service"
        )


def _refuse_tied(connection: Connection, *leaving: str) -> None:
    """Refuse if something that stays, in the live schema or another one, depends on what is in the schemas `leaving`: a
    foreign key, a view, a type, a function of a trigger. They are dropped for a moment, to see what would go with them.
    """
    there = {"leaving": list(leaving)}
    before = set(connection.execute(_INVENTORY, there).scalars())
    with connection.begin_nested() as trial:
        for schema in leaving:
            connection.execute(text(f"DROP SCHEMA {quoted(schema)} CASCADE"))
        lost = sorted(before - set(connection.execute(_INVENTORY, there).scalars()))
        trial.rollback()
    if lost:
        raise CommandFailed(
            f"what stays live depends on what leaves: {', '.join(lost[:NAMED_MAX])}. Switch the tables together that "
            "belong together; make views, types and functions that they need anew, by hand"
        )


def _meaning(error: DBAPIError, engine: Engine, setting: str) -> Exception:
    if isinstance(error.orig, InsufficientPrivilege):
        return CommandFailed(
            f"{setting}: the role {engine.url.username} may not switch: {error.orig.diag.message_primary}. Set "
            "MIGRATION_DATABASE_URL to the role that owns the tables, and GRANT CREATE ON DATABASE to it"
        )
    return no_connection(error, setting) if error.statement is None else error
