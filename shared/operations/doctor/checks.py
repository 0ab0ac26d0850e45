"""Every check, in the order in which it is told: the table of contents of `doctor`.

The checks of one place, the first word of the name, run one after the other; the places run side by side. A check is
left out if one that it needs has found a fault, or nothing.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from . import brokers, certificates, database, readers, rights, sessions, settings, topics, waits
from .case import Case
from .findings import Finding, Verdict


class Check(NamedTuple):
    """One question to a service and its surroundings."""

    name: str
    """Its place, and what is asked there."""
    ask: Callable[[Case], Iterable[Finding]]
    seconds: float
    """It may take so long; a pod with little CPU takes seconds to import what an answer takes milliseconds to tell."""
    needs: tuple[str, ...] = ()
    late: Verdict = "unknown"
    """What it means if there is no answer by then."""


READ = ("settings",)
IN = ("postgres connection",)
TABLES = ("postgres schema",)
LET_IN = ("kafka connection",)

CHECKS = (
    Check("settings", settings.complete, 8.0, late="fault"),
    Check("settings safety", settings.safety, 2.0, READ),
    Check("settings agreement", settings.agreement, 8.0, READ),
    Check("settings libraries", settings.libraries, 8.0, READ),
    Check("settings certificate", certificates.own, 8.0, READ),
    Check("postgres address", database.address, 8.0, READ, "fault"),
    Check("postgres connection", database.connection, 8.0, ("postgres address",), "fault"),
    Check("postgres certificate", database.certificate, 12.0, ("postgres address",)),
    Check("postgres safety", database.safety, 6.0, IN),
    Check("postgres pooler", database.pooler, 6.0, IN),
    Check("postgres clock", database.clock, 8.0, IN),
    Check("postgres limits", sessions.limits, 8.0, IN),
    Check("postgres disk", sessions.disk, 8.0, IN),
    Check("postgres transactions", sessions.transactions, 8.0, IN),
    Check("postgres schema", database.schema, 8.0, IN),
    Check("postgres tables", database.library_tables, 8.0, TABLES),
    Check("postgres rights", database.rights, 8.0, IN),
    Check("postgres outbox", sessions.waiting, 8.0, TABLES),
    Check("postgres pauses", sessions.paused, 8.0, ("postgres tables",)),
    Check("postgres dead letters", waits.dead_letters, 8.0, ("postgres tables",)),
    Check("postgres parked keys", waits.parked_keys, 8.0, ("postgres tables",)),
    Check("kafka address", brokers.address, 8.0, READ, "fault"),
    Check("kafka certificates", brokers.certificates, 12.0, ("kafka address",)),
    # A broker that is silent, or speaks TLS where we do not, is told from one that starts only after 15 s.
    Check("kafka connection", brokers.connection, 20.0, ("kafka address",), "fault"),
    Check("kafka listeners", brokers.listeners, 8.0, LET_IN),
    Check("kafka quorum", brokers.quorum, 8.0, LET_IN),
    Check("kafka replication", brokers.replication, 2.0, LET_IN),
    Check("kafka settings", brokers.settings, 8.0, LET_IN),
    Check("kafka disk", brokers.disk, 8.0, LET_IN),
    Check("kafka topics", topics.existence, 10.0, LET_IN),
    Check("kafka topic settings", topics.settings, 8.0, LET_IN),
    Check("kafka rights", rights.rights, 8.0, LET_IN),
    Check("kafka group", readers.group, 8.0, LET_IN),
    Check("kafka transactions", readers.transactions, 18.0, LET_IN),
    Check("positions", readers.positions, 12.0, (*TABLES, "kafka topics")),
    Check("calls destinations", settings.destinations, 8.0, READ),
    Check("calls stuck", waits.stuck_calls, 8.0, ("postgres tables",)),
)
