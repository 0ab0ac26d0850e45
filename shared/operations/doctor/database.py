"""PostgreSQL: the way there, the server, the schema, the rights, and who else works in it."""

import time
from collections.abc import Iterator, Sequence

from sqlalchemy import make_url, text

from ...errors import DatabaseUnavailable, Misconfigured
from ...postgres import access, engine, migrations, roles, tables, version_table
from ..visible import CLOCKS_SECONDS
from . import network
from .case import Case
from .certificates import expiring, handshake
from .findings import Finding, fault, ok, warning
from .sections import MANAGED, POOLERS, ROLES, ROLLOUT

CLOCK_SECONDS = 5.0
"""Clocks that are kept by NTP differ by milliseconds."""

SILENT = "the server takes connections and does not answer: is it frozen, overloaded, or its disk full?"

NAMED_MAX = 5
"""Tables that are named."""


def address(case: Case) -> Iterator[Finding]:
    """Whether its names resolve, and its ports take connections."""
    places = network.of_postgres(case.settings.dsn(case.service.name))
    if places:
        yield network.reached("DATABASE_URL", places, "PostgreSQL")
    else:
        yield ok("DATABASE_URL names no host; libpq chooses one")


def connection(case: Case) -> Iterator[Finding]:
    """Whether we are let in."""
    try:
        with access.connect(case.engine) as opened:
            version, database, role, encrypted = opened.execute(
                text("""
                    SELECT current_setting('server_version'), current_database(), current_user,
                           (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())
                """)
            ).one()
    except (Misconfigured, DatabaseUnavailable) as error:
        silent = isinstance(error, DatabaseUnavailable) and "timeout expired" in str(error)
        yield fault(str(error), SILENT if silent else "correct DATABASE_URL, or the server", ROLES)
        return
    yield ok(f"PostgreSQL {version}, database {database}, role {role}, {'with' if encrypted else 'without'} TLS")


def certificate(case: Case) -> Iterator[Finding]:
    """Until when the server's certificate is valid; libpq checks it, as `sslmode` says."""
    dsn = case.settings.dsn(case.service.name)
    places = [place for place in network.of_postgres(dsn) if not place.host.startswith("/")]
    if str(make_url(dsn).query.get("sslmode", "prefer")) == "disable" or not places:
        yield ok("no TLS is asked for")
        return
    for place in places:
        try:
            shown = handshake(place, None, postgres=True)  # libpq checks it
        except OSError as error:
            yield ok(f"none is shown by {place}: {error}")  # `connection` says whether a session is encrypted
        else:
            yield expiring(f"the certificate of {place}", shown.expires, "give PostgreSQL a new one, and reload it")


def safety(case: Case) -> Iterator[Finding]:
    """Version, `fsync`, `synchronous_commit`, `full_page_writes`, timeouts, and what a session writes and reads."""
    try:
        engine.refuse_unsafe(case.engine)
    except (Misconfigured, DatabaseUnavailable) as error:
        yield fault(
            str(error),
            "change that setting of the server, the database or the role",
            MANAGED,
        )
        return
    yield ok("version, fsync, synchronous_commit, full_page_writes, timeouts and the forms of values are as needed")


def pooler(case: Case) -> Iterator[Finding]:
    """Whether a pooler between us gives each transaction another session."""
    mend = "give workers, callers and commands a URL of PostgreSQL itself, or pool_mode = session"
    try:
        engine.refuse_transaction_pooler(case.engine)
    except Misconfigured as error:
        # An API may go through it, if it was told.
        yield warning(str(error), mend, POOLERS) if case.settings.database_pooler else fault(str(error), mend, POOLERS)
        return
    yield ok("two connections have sessions of their own")


def schema(case: Case) -> Iterator[Finding]:
    """Whether the migrations that this code needs were applied."""
    name, command = case.service.name, case.command("migrate")
    try:
        migrations.refuse_behind(case.engine, name)
    except Misconfigured as error:
        yield fault(str(error), f"run {command}", ROLLOUT)
        return
    with case.engine.connect() as opened:
        pending = migrations.behind(opened, name)
        revision = version_table.revision(opened)
    last = migrations.history(name)[-1]
    if pending:
        mend = f"run {command} once no process of the old version runs"
        yield warning(f"the database is at {revision}; {', '.join(pending)} wait", mend, ROLLOUT)
    elif revision is not None and revision > last.revision:
        yield warning(
            f"the database is at {revision}, newer than this code ({last.name})",
            "run the newest version of the service",
        )
    else:
        yield ok(f"the database is at {last.name}, the last migration")


_COLUMNS = text("""
    SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE attnum > 0 AND NOT attisdropped AND relname = ANY(:tables)
        AND relnamespace = CAST(current_schema() AS regnamespace)
""")


def library_tables(case: Case) -> Iterator[Finding]:
    """Whether the library's tables are those of this version: migrations of the service make them."""
    with case.engine.connect() as opened:
        names = list(tables.metadata.tables)
        there = {(table, column) for table, column in opened.execute(_COLUMNS, {"tables": names})}
    lost = lacking(there)
    if lost:
        yield fault(
            f"the library's tables are those of an earlier version: {some(lost)} not there",
            "call the revisions that shared/CHANGELOG.md names in a migration of the service, and run "
            f"{case.command('migrate')}",
        )
    else:
        yield ok(f"all {len(names)} tables of the library have their columns")


def lacking(there: set[tuple[str, str]]) -> list[str]:
    """Return the tables and columns of the library that are not there."""
    present = {table for table, _ in there}
    lost = []
    for name, table in tables.metadata.tables.items():
        if name not in present:
            lost.append(name)
        else:
            lost += [f"{name}.{column.name}" for column in table.columns if (name, column.name) not in there]
    return lost


_TEMPORARY = text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")


def rights(case: Case) -> Iterator[Finding]:
    """What the role of DATABASE_URL may do. API, worker and caller need the same."""
    mend = f"run {case.command('migrate')} with MIGRATION_DATABASE_URL, which grants it"
    try:
        roles.refuse_without_rights(case.engine, case.service.name)
    except Misconfigured as error:
        yield fault(str(error), mend, ROLES)
        return
    with case.engine.connect() as opened:
        temporary = opened.execute(_TEMPORARY).scalar_one()
    if not temporary:
        yield warning("the role may not make temporary tables, which `positions adopt` needs", mend, ROLES)
        return
    yield ok("the role may do what API, worker, caller and commands do")


def clock(case: Case) -> Iterator[Finding]:
    """The database's clock against ours; brokers tell no time."""
    with case.engine.connect() as opened:
        opened.execute(text("SELECT 1"))  # the connection is made, and pinged
        before = time.time()
        there = float(opened.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        after = time.time()
    yield skew(there - (before + after) / 2, (after - before) / 2)


def skew(ahead: float, doubt: float) -> Finding:
    """Judge how far the database's clock is ahead of ours, give or take `doubt` seconds."""
    way = "ahead of" if ahead >= 0 else "behind"
    seen = f"the clock of PostgreSQL is {abs(ahead):.3f} s {way} ours, give or take {doubt:.3f} s"
    mend = "let NTP or chrony set both clocks: `timedatectl`"
    least = abs(ahead) - doubt
    if least > CLOCKS_SECONDS:
        return fault(f"{seen}; `audit` and `positions adopt` allow an hour, and brokers may refuse our records", mend)
    return warning(seen, mend) if least > CLOCK_SECONDS else ok(seen)


def some(names: Sequence[str]) -> str:
    """Name the first of many."""
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return f"{', '.join(names[:NAMED_MAX])}{more}"
