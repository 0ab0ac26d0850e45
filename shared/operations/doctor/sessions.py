"""What goes on in PostgreSQL: open transactions, limits that come near, what waits, what is known of the disk."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from ...postgres import backlog, pauses
from ..output import age
from .case import Case
from .database import some
from .findings import Finding, fault, ok, unknown, warning
from .sections import LOCK, PAUSES, SIZES, WATCH

LOOK_SECONDS = 2.0
"""Between two looks at open transactions: those of the library take milliseconds. A transaction of another role tells
nothing of its age, but that it was open in both.
"""

LONG_SECONDS = 300.0
"""A statement of the library takes at most half a minute; backups and reports take longer, and keep dead rows."""

UNPUBLISHED_SECONDS = 60.0
"""Longer than any default timeout after which another worker takes over a lane."""

CONNECTIONS_SHARE = 0.9
"""Of `max_connections`."""

FROZEN_ROWS = 1_000_000_000
"""Transactions since the oldest row was frozen. Autovacuum begins at 200 million, PostgreSQL stops at 2 billion."""

KEPT_BYTES = 10_000_000_000
"""Of the WAL, by a replication slot that nobody reads."""


class Transaction(NamedTuple):
    """A transaction of another session. What this role may not see is None."""

    pid: int
    number: str
    """Its virtual transaction id, which another transaction of the same session does not have."""
    role: str
    application: str
    state: str | None
    seconds: float | None
    tables: Sequence[str]
    """Those of the service's schema on which it holds locks."""
    shuts_out: bool
    """Whether nobody else may even read one of them."""
    waiting: int
    """How many sessions wait for what it holds."""
    waits: bool
    """Whether it waits itself, for what another one holds."""


# Everybody sees who holds locks, and each transaction holds one on its own number. State and age are for members of
# pg_read_all_stats, and of the session's role.
_TRANSACTIONS = text("""
    SELECT activity.pid, own.virtualxid, activity.usename, coalesce(activity.application_name, ''), activity.state,
           extract(epoch FROM clock_timestamp() - activity.xact_start),
           ARRAY(SELECT DISTINCT CAST(relname AS text)
               FROM pg_locks AS held JOIN pg_class ON pg_class.oid = held.relation
               WHERE held.pid = activity.pid AND held.granted AND held.locktype = 'relation' AND relkind IN ('r', 'p')
               AND relnamespace = CAST(current_schema() AS regnamespace) ORDER BY 1),
           EXISTS (SELECT FROM pg_locks AS held JOIN pg_class ON pg_class.oid = held.relation
               WHERE held.pid = activity.pid AND held.granted AND held.mode = 'AccessExclusiveLock'
               AND held.locktype = 'relation' AND relkind IN ('r', 'p')
               AND relnamespace = CAST(current_schema() AS regnamespace)),
           (SELECT count(*) FROM pg_stat_activity AS other
               WHERE other.datname = current_database() AND activity.pid = ANY(pg_blocking_pids(other.pid))),
           EXISTS (SELECT FROM pg_locks AS wanted WHERE wanted.pid = activity.pid AND NOT wanted.granted)
    FROM pg_stat_activity AS activity JOIN pg_locks AS own ON own.pid = activity.pid
    WHERE own.locktype = 'virtualxid' AND own.granted AND activity.usename IS NOT NULL
        AND activity.datname = current_database() AND activity.pid <> pg_backend_pid()
    ORDER BY activity.pid
""")

_PREPARED = text("""
    SELECT gid, extract(epoch FROM clock_timestamp() - prepared) FROM pg_prepared_xacts
    WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => :seconds)
    ORDER BY prepared
""")


def transactions(case: Case) -> Iterator[Finding]:
    """Transactions that stay open: idle ones, long ones, prepared ones."""
    with case.engine.connect() as opened:
        before = _open(opened)
        if before:
            time.sleep(LOOK_SECONDS)
            known = {(one.pid, one.number) for one in before}
            before = [one for one in _open(opened) if (one.pid, one.number) in known]
        prepared = opened.execute(_PREPARED, {"seconds": LONG_SECONDS}).all()
    found = [verdict for one in before if (verdict := judged(one)) is not None]
    for gid, seconds in prepared:
        found.append(
            warning(
                f"transaction {gid} was prepared {age(float(seconds))} ago, and still holds its locks",
                f"COMMIT PREPARED or ROLLBACK PREPARED '{gid}', whichever its transaction manager decided",
            )
        )
    yield from found or [ok(f"none stays open for {LOOK_SECONDS:g} s without work")]


def _open(opened: Connection) -> list[Transaction]:
    with opened.begin():
        return [Transaction(*row) for row in opened.execute(_TRANSACTIONS)]


def judged(one: Transaction) -> Finding | None:
    """Judge a transaction that was open in both looks; None for one that works."""
    seconds = LOOK_SECONDS if one.seconds is None else max(float(one.seconds), LOOK_SECONDS)
    idle = one.state is not None and one.state.startswith("idle in transaction")
    state = "whose state this role may not see" if one.state is None else one.state
    on = f", with locks on {some(one.tables)}" if one.tables else ""
    seen = (
        f"server process {one.pid} (role {one.role}, application {one.application or 'without a name'}; {state}) has "
        f"had a transaction open for {age(seconds)} at least{on}"
    )
    ours = one.application.startswith("exactly-once ")
    whose = (
        "it is a process of the library: its log says what it does; if it is stuck,"
        if ours
        else "ask its owner to end it;"
    )
    mend = f"{whose} `SELECT pg_terminate_backend({one.pid})` rolls it back"
    if one.waiting:
        who = "1 session waits" if one.waiting == 1 else f"{one.waiting} sessions wait"
        return fault(f"{seen}; {who} for it", mend, LOCK)
    if one.shuts_out:
        return fault(f"{seen}; nobody else may read them", mend, LOCK)
    if not one.waits and (idle or one.state is None or seconds > LONG_SECONDS):
        return warning(seen, mend, LOCK)
    return None


_LIMITS = text("""
    SELECT CAST(current_setting('max_connections') AS int), (SELECT sum(numbackends) FROM pg_stat_database),
           (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database())
""")


def limits(case: Case) -> Iterator[Finding]:
    """Connections that are left, and numbers of transactions."""
    with case.engine.connect() as opened:
        most, taken, frozen = opened.execute(_LIMITS).one()
    yield from near_limits(int(most), int(taken or 0), int(frozen))


def near_limits(most: int, taken: int, frozen: int) -> Iterator[Finding]:
    """Judge the limits of a server."""
    seen = f"{taken} of max_connections = {most} are taken"
    if taken >= CONNECTIONS_SHARE * most:
        yield warning(seen, "raise max_connections, or run fewer processes", SIZES)
    else:
        yield ok(seen)
    if frozen > FROZEN_ROWS:
        yield warning(
            f"the oldest row of the database was frozen {frozen:,} transactions ago; at 2 billion PostgreSQL stops",
            "find what keeps VACUUM from freezing (an old transaction, a replication slot), then run VACUUM (FREEZE)",
        )


def waiting(case: Case) -> Iterator[Finding]:
    """The events that wait to be published."""
    with case.engine.connect() as opened, opened.begin():
        found = backlog.look(opened)
    seen = f"at most {found.rows_at_most:,} events wait to be published, the oldest for {age(found.oldest_seconds)}"
    if found.rows_at_most and found.oldest_seconds > UNPUBLISHED_SECONDS:
        mend = f"do workers work, and own all lanes? {case.command('positions show')} tells"
        yield warning(seen, mend, WATCH)
    elif found.rows_at_most > case.settings.outbox_rows_max:
        yield fault(f"{seen}; the API answers 503", "OUTBOX_ROWS_MAX; why do workers not keep up?", SIZES)
    else:
        yield ok(seen if found.rows_at_most else "no event waits to be published")


def paused(case: Case) -> Iterator[Finding]:
    """The topics that an operator has paused."""
    with case.engine.connect() as opened, opened.begin():
        found = pauses.look(opened)
    for topic, pause in found.items():
        yield warning(f"{topic} is {pause}", f"{case.command(f'inputs resume {topic}')} lets it go on", PAUSES)
    if not found:
        yield ok("no input is paused")


_DISK = text("SELECT pg_size_pretty(pg_database_size(current_database()))")
_SLOTS = text("""
    SELECT slot_name, coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)
    FROM pg_replication_slots ORDER BY slot_name
""")


def disk(case: Case) -> Iterator[Finding]:
    """What is known of its disk: the size of the database, and what replication slots keep."""
    with case.engine.connect() as opened:
        size = opened.execute(_DISK).scalar_one()
        slots = [(str(name), str(status), int(kept)) for name, status, kept in opened.execute(_SLOTS)]
    yield unknown(
        f"the database takes {size}; how much of the disk is free, PostgreSQL tells nobody",
        "look on the server: `df`, or what your provider shows",
    )
    for name, status, kept in slots:
        if status == "lost" or kept > KEPT_BYTES:
            what = "was left behind" if status == "lost" else f"keeps {kept / 1e9:.0f} GB of WAL on the disk"
            yield warning(
                f"replication slot {name} {what}",
                f"let its reader catch up, or SELECT pg_drop_replication_slot('{name}')",
            )
