"""A service's database: its engine, the guarantees it must meet, and the transaction of an HTTP request."""

import select
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

from psycopg import OperationalError
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError

from ..errors import Misconfigured, SessionMisused
from ..orm import bulk
from ..session import Session
from ..settings import Settings
from ..telemetry import outages
from . import access as postgres_access
from . import ahead, blame, database_errors, session_settings
from .ahead import Statement
from .outbox import Outbox

POSTGRES_MIN = 160000
"""PostgreSQL 16, the oldest that CI runs on."""

# A worker that is frozen in a transaction must not hold its row locks for ever: the server ends such a session.
IDLE_IN_TRANSACTION_MS = 10_000
# The longest wait for another worker's row lock; beyond a frozen worker's pause it would never be reached.
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
# A day, for time spent at a breakpoint. Not 0: a session without a limit is refused (`refuse_unsafe`).
DEBUGGING_MS = 86_400_000
# A server that cannot be reached must be noticed well within the watchdog's budget, on both sides.
TCP_TIMEOUT_MS = 8_000
CONNECT_SECONDS = 5

UNASKED_MAX = 10
"""Reads of what PostgreSQL sends to an idle session: a parameter that changed, a reason why it ends."""

POOLER_ROUNDS = 3
"""A pooler that alternates between two sessions is found in the second round."""


def connect(settings: Settings, service: str, pool_size: int, *, debugging: bool = False) -> Engine:
    """Create the engine of `service`; it opens no connection yet. While `debugging`, a transaction may idle."""
    session_settings.forget_libpq_variables()
    handlers_ms = DEBUGGING_MS if debugging else int(settings.handler_seconds * 2_000)
    options = {
        # A handler that sends no query leaves its session idle.
        "idle_in_transaction_session_timeout": max(IDLE_IN_TRANSACTION_MS, handlers_ms),
        "lock_timeout": LOCK_TIMEOUT_MS,
        "statement_timeout": max(STATEMENT_TIMEOUT_MS, handlers_ms),
        # Detects a client that died while its statement waits; without it the statement would run to its end.
        "client_connection_check_interval": 1_000,
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
        "tcp_user_timeout": TCP_TIMEOUT_MS,
    }
    # A pooler refuses or drops options, so the role has them instead. And a prepared statement may exist in another
    # session than the one that executes it.
    session: dict[str, Any] = (
        {"prepare_threshold": None} if settings.database_pooler else {"options": session_settings.options(options)}
    )
    engine = create_engine(
        settings.dsn(service),
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": TCP_TIMEOUT_MS,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "application_name": f"exactly-once {service}",
            **session,
        },
    )
    bulk.install(engine)
    ahead.install(engine)
    database_errors.install(engine)
    event.listen(engine, "commit", _refuse_undone)
    event.listen(engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(raw: Any, _record: object, _proxy: object) -> None:
    """Refuse a pooled connection that PostgreSQL has closed, by a look at its socket instead of a query; the pool then
    makes a new one. One that was lost in silence is closed by the keepalives.
    """
    socket = select.poll()
    socket.register(raw.fileno(), select.POLLIN)
    for _ in range(UNASKED_MAX):
        if not socket.poll(0):
            return
        try:
            raw.pgconn.consume_input()
        except OperationalError as error:
            raise DisconnectionError from error
    raise DisconnectionError


def _refuse_undone(connection: Connection) -> None:
    """Refuse to commit what PostgreSQL has undone: it would answer COMMIT with ROLLBACK, without an error. Raises
    `SessionMisused`.
    """
    raw: Any = connection.connection.dbapi_connection
    if raw.info.transaction_status == TransactionStatus.INERROR:
        raise SessionMisused(UNDONE)


def refuse_unsafe(engine: Engine) -> None:
    """Refuse a server that may lose acknowledged commits, and a session that may wait for ever or write values in
    another form.

    Raises `Misconfigured`, naming the setting, or `DatabaseUnavailable` if the server does not answer.
    """
    with postgres_access.connect(engine) as connection:
        if int(connection.execute(text("SHOW server_version_num")).scalar_one()) < POSTGRES_MIN:
            raise Misconfigured("DATABASE_URL: PostgreSQL 16 or newer is needed")
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            if connection.execute(text(f"SHOW {name}")).scalar_one() == "off":
                raise Misconfigured(
                    f"DATABASE_URL: the server runs with {name} = off and may forget what it has committed; turn it on"
                )
        session_settings.refuse_unfit(connection, "DATABASE_URL")
        for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"):
            if connection.execute(text(f"SHOW {name}")).scalar_one() == "0":
                raise Misconfigured(
                    f"DATABASE_URL: {name} is not set in a new session; behind a pooler the role must have it: "
                    f"ALTER ROLE {engine.url.username} SET {name} = ... (docs/deploying.md)"
                )


def refuse_transaction_pooler(engine: Engine) -> None:
    """Refuse a pooler that switches sessions between transactions: a slot is a lock of one session. Raises
    `Misconfigured`.

    Two open connections must have two sessions that stay the same. A transaction pooler gives itself away: it hands
    the second connection the session that the first just used, or switches the first one's session.
    """
    with postgres_access.connect(engine) as first, postgres_access.connect(engine) as second:
        seen = set()
        for _ in range(POOLER_ROUNDS):
            with first.begin():
                mine = _session(first)
            with second.begin():
                seen.add((mine, _session(second)))
    if len(seen) > 1 or any(mine == other for mine, other in seen):
        raise Misconfigured(
            "DATABASE_URL: leads to a pooler that gives each transaction another session, where a slot cannot be held; "
            "workers and operator's commands need PostgreSQL itself, or pool_mode = session"
        )


def _session(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


UNDONE = (
    "a statement failed, its error was caught, and PostgreSQL has undone the whole transaction: nothing of it can be "
    "committed. Let the error pass, or run what may fail in `with session.begin_nested():`"
)

Kind = TypeVar("Kind", bound=Session)

_COMMIT = Statement(text("COMMIT"), {})


class Requests:
    """Transactions of HTTP requests."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self._engine = engine
        # BEGIN says so: it costs no statement of its own.
        self._reading = engine.execution_options(postgresql_readonly=True)
        self._outbox = outbox

    def transaction(self) -> AbstractContextManager[Session]:
        """Open a session that publishes and schedules. When the block succeeds, commit it; an exception undoes all."""
        return self.session(Session)

    @contextmanager
    def session(self, kind: type[Kind], *, read_only: bool = False) -> Iterator[Kind]:
        """As `transaction`, with a session of class `kind`; PostgreSQL refuses to write in one that is `read_only`."""
        with kind(self._reading if read_only else self._engine) as session, session.begin():
            session.publisher = partial(self._outbox.add, session)
            session.scheduler = partial(self._outbox.schedule, session)
            session.settler = partial(self._outbox.settle, session)
            with session.lent():
                yield session
            self._finish(session)
        outages.DATABASE.answered("requests")

    def _finish(self, session: Session) -> None:
        """Send what the library adds together with the COMMIT: PostgreSQL does not reach that after an error. The
        session's own finds nothing left to do.
        """
        last = [*self._outbox.insertion(session), *session.closing]
        if not last:
            return
        try:
            ahead.execute(session.connection(), [*last, _COMMIT])
        except DBAPIError as error:
            if blame.state_of(error) == blame.IN_FAILED_TRANSACTION:
                raise SessionMisused(UNDONE) from error
            raise
