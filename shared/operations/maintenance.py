"""The context of an operator's commands, and the rules for those that decide something.

A decision is made while no worker runs: the command holds every slot, so that none can start, and the consumer group is
empty, so that Kafka accepts nothing from a worker that is only frozen. The operator confirms it first, and the database
records it in the transaction that makes it.
"""

import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ..configuration.program import program
from ..errors import CommandFailed
from ..postgres.engine import refuse_transaction_pooler
from ..postgres.outbox import Outbox
from ..postgres.slots import LOCK_CLASS
from ..service import Service
from ..settings import Settings
from .group import Group, wait_until
from .output import ask, note, printable

Choice = Literal["adopt", "rewind", "skip"]

SLOTS = 1_000
"""The maximum of WORKER_SLOTS; a worker's value may differ from this process's."""

LOCK = -2
"""The advisory lock of the one deciding operator; slots are not negative, and -1 is housekeeping's."""

STATEMENT_SECONDS = 600
"""A decision may touch a whole outbox, which a batch never does."""

HAND_OVER_SECONDS = 3.0
"""Locks of a process that just ended are released a moment later."""

BROKERS_SESSION_SECONDS = 45.0
"""The session timeout of a KIP-848 group is the broker's; this is its default."""

NAME_MAX = 100
"""Characters of the name of who decides."""

HOLDERS_SHOWN = 5
"""Holders of slots that a refusal names."""

SHOWN = {
    "H": "next offset",
    "P": "published position",
    "counted as said": "counted as published",
    "may be said twice": "may be published twice",
}
"""How a decision's facts are shown; they are stored under the names that earlier versions gave them."""

# Other locks of this class have negative numbers, which as an oid exceed any slot.
_HOLDERS = text("""
    SELECT CAST(held.objid AS bigint), held.pid, coalesce(host(activity.client_addr), 'local'),
           extract(epoch FROM clock_timestamp() - activity.backend_start)
    FROM pg_locks AS held JOIN pg_stat_activity AS activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.classid = :class AND CAST(held.objid AS bigint) < :slots AND held.granted
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND held.pid <> pg_backend_pid()
    ORDER BY held.objid LIMIT :most
""")
_TAKE_TURN = text("SELECT pg_try_advisory_lock(:class, :lock)")
_TAKE_ALL = text("SELECT bool_and(pg_try_advisory_lock(:class, slot)) FROM generate_series(0, :slots - 1) AS slot")

_GIVE_ALL = text("SELECT pg_advisory_unlock_all()")

_DECISION = text("""
    INSERT INTO exactly_once_decision (command, source, before, after)
    VALUES (:command, :source, CAST(:before AS jsonb), CAST(:after AS jsonb)) RETURNING id
""")


@dataclass(frozen=True)
class Context:
    """The context of an operator's command."""

    settings: Settings
    service: Service
    engine: Engine
    outbox: Outbox

    def command(self, words: str) -> str:
        """Return a command of this service, as typed."""
        return f"`{program(self.service.name)} {words}`"


@dataclass(frozen=True)
class Plan:
    """The plan of a decision."""

    source: str
    before: dict[str, Any]
    after: dict[str, Any]
    means: str
    """Its consequences, for the operator to confirm."""
    carry_out: Callable[[Connection], None]
    """The database's part, in the transaction that also records the decision."""
    finish: Callable[[], None] = lambda: None
    """Kafka's part, after the commit; if it fails, running the command again does it."""
    remembers: Mapping[str, Any] = field(default_factory=dict)
    """What the decision records besides `after`."""


@dataclass(frozen=True)
class Maintenance:
    """The context of a decision, while no worker runs."""

    context: Context
    group: Group
    connection: Connection
    """Holds the slots; has no open transaction."""

    @property
    def service(self) -> str:
        """The name of the service."""
        return self.context.service.name


@contextmanager
def maintenance(context: Context) -> Iterator[Maintenance]:
    """Keep every worker of the service out while the block runs. Raises `CommandFailed` if one is running."""
    refuse_transaction_pooler(context.engine)
    with Group(context.settings, context.service) as group, context.engine.connect() as connection:
        connection.detach()  # closing it ends the session and frees the slots
        with connection.begin():
            connection.execute(text(f"SET statement_timeout = '{STATEMENT_SECONDS}s'"))
        try:
            if not wait_until(lambda: _take(connection), HAND_OVER_SECONDS):
                raise CommandFailed(_who_works(context, connection))
            _wait_until_empty(context, group)
            yield Maintenance(context, group, connection)
        finally:
            # Explicitly: the session's end comes only a moment after this process has gone on.
            with suppress(DBAPIError):
                _give(connection)


class Holder(NamedTuple):
    """Who holds a slot."""

    slot: int
    pid: int
    """Of the server's process."""
    host: str | None
    seconds: float | None
    """Since its session began. This and the host are None if this role may not know them."""


def holders(connection: Connection, most: int = SLOTS) -> list[Holder]:
    """Return who holds the slots, in their order."""
    rows = connection.execute(_HOLDERS, {"class": LOCK_CLASS, "slots": SLOTS, "most": most})
    return [
        Holder(slot, pid, None, None) if age is None else Holder(slot, pid, host, float(age))
        for slot, pid, host, age in rows
    ]


def _take(connection: Connection) -> bool:
    """Take the decision lock and every slot, or nothing."""
    with connection.begin():
        turn = connection.execute(_TAKE_TURN, {"class": LOCK_CLASS, "lock": LOCK}).scalar_one()
        if turn and connection.execute(_TAKE_ALL, {"class": LOCK_CLASS, "slots": SLOTS}).scalar_one():
            return True
    _give(connection)
    return False


def _give(connection: Connection) -> None:
    with connection.begin():
        connection.execute(_GIVE_ALL)


def _who_works(context: Context, connection: Connection) -> str:
    with connection.begin():
        turn = connection.execute(_TAKE_TURN, {"class": LOCK_CLASS, "lock": LOCK}).scalar_one()
        found = holders(connection, HOLDERS_SHOWN)
    if not turn:
        return f"another command is deciding something for {context.service.name}; try again when it has ended"
    who = ", ".join(f"slot {one.slot} by server process {one.pid} for {one.host or 'another role'}" for one in found)
    return (
        f"workers of {context.service.name} are up ({who or 'a slot was held just now'}). Stop all of them, then try "
        "again; the API may stay up"
    )


def _wait_until_empty(context: Context, group: Group) -> None:
    """Wait until the group is empty: the broker drops a killed member after its session timeout."""
    members = group.members()
    if not members:
        return
    classic = context.settings.group_protocol == "classic"
    seconds = (context.settings.session_timeout_ms / 1_000 if classic else BROKERS_SESSION_SECONDS) + 10
    note(
        f"waiting up to {seconds:.0f} s until Kafka drops {len(members)} members of group {context.service.name} that "
        f"ended without leaving: {', '.join(members)}"
    )
    if not wait_until(lambda: not group.members(), seconds):
        raise CommandFailed(
            f"group {context.service.name} still has members: {', '.join(group.members())}. No worker of this database "
            "holds a slot, so they are workers of another database, or something else that uses this group: stop them"
        )


_decides: ContextVar[str] = ContextVar("decides", default="")
"""Who decides; empty: the user of this process."""


@contextmanager
def deciding(name: str) -> Iterator[None]:
    """Keep `name` with each decision that is recorded in this block."""
    before = _decides.set(name)
    try:
        yield
    finally:
        _decides.reset(before)


def decides() -> str:
    """Return who decides: as `deciding` has named him, or the user of this process."""
    name = _decides.get().strip()
    if not name:
        with suppress(KeyError, OSError):  # a container's user may have no name
            name = getpass.getuser()
    return printable(name[:NAME_MAX]) or "somebody at the command line"


def decided(
    connection: Connection, command: str, source: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> int:
    """Record a decision, in the transaction that carries it out; return its number."""
    after = {**after, "by": decides()}
    facts = {"command": command, "source": source, "before": json.dumps(before), "after": json.dumps(after)}
    return int(connection.execute(_DECISION, facts).scalar_one())


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an irreversible step. Raises `CommandFailed` unless the answer is yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"{question} There is no terminal to ask on; add --yes to do it without asking")
    if ask(f"{question} [yes/no]").strip().lower() != "yes":
        raise CommandFailed("nothing was changed")
