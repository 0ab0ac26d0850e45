"""Slots: a slot is a small number that a worker holds while it lives, by an advisory lock of its one database session.

The slot determines a worker's transactional.id and group.instance.id. A worker that is killed and restarted takes the
same slot: it ends the transaction that the dead one left open, and gets its partitions back without waiting for the
session timeout.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

LOCK_CLASS = 0x45584F4E
"""The first half of the advisory lock's key, so that a service's own locks do not collide with ours ("EXON")."""

SETTLE_SECONDS = 5.0
"""After a server start a newcomer waits this long: workers from before retake their slots first."""

TERMINATE_MS = 5_000
"""How long to wait for our own old session to end."""


_TAKE_ANY = text("""
    WITH RECURSIVE tried (slot, taken) AS (
        SELECT 0, pg_try_advisory_lock(:class, 0)
        UNION ALL
        SELECT slot + 1, pg_try_advisory_lock(:class, slot + 1) FROM tried WHERE NOT taken AND slot + 1 < :slots
    )
    SELECT slot FROM tried WHERE taken
""")
"""One statement, since a standby repeats it several times a second. Each try follows from the one before: after LIMIT,
PostgreSQL may take more locks than it returns.
"""


class Backend(NamedTuple):
    """A server process; the start time distinguishes it from another with the same pid."""

    pid: int
    started: str


def backend(connection: Connection) -> Backend:
    """Identify the server process of `connection`."""
    row = connection.execute(
        text("SELECT pid, CAST(backend_start AS text) FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    ).one()
    return Backend(row[0], row[1])


def seconds_since_start(connection: Connection) -> float:
    """Return the server's uptime."""
    return float(
        connection.execute(
            text("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
        ).scalar_one()
    )


def take_any(connection: Connection, slots: int) -> int | None:
    """Take the lowest free slot; None if all are taken."""
    return connection.execute(_TAKE_ANY, {"class": LOCK_CLASS, "slots": slots}).scalar_one_or_none()


def take(connection: Connection, slot: int) -> bool:
    """Take `slot` if it is free."""
    return bool(
        connection.execute(
            text("SELECT pg_try_advisory_lock(:class, :slot)"), {"class": LOCK_CLASS, "slot": slot}
        ).scalar_one()
    )


def is_mine(connection: Connection, slot: int) -> bool:
    """Whether the session of `connection` holds `slot`."""
    return bool(
        connection.execute(
            text("""
                SELECT EXISTS (
                    SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
                    WHERE locktype = 'advisory' AND classid = :class AND objid = :slot AND granted
                          AND pid = pg_backend_pid() AND datname = current_database()
                )
            """),
            {"class": LOCK_CLASS, "slot": slot},
        ).scalar_one()
    )


def terminate(connection: Connection, old: Backend) -> None:
    """End our own old session if the server has not yet noticed its loss; this also settles its last COMMIT."""
    connection.execute(
        text(
            "SELECT pg_terminate_backend(pid, :ms) FROM pg_stat_activity WHERE pid = :pid AND CAST(backend_start AS "
            "text) = :started"
        ),
        {"pid": old.pid, "started": old.started, "ms": TERMINATE_MS},
    )
