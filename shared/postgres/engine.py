"""The database of a service: its engine, what it must promise, and the transaction of an HTTP request."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, text

from ..errors import Misconfigured
from ..orm import bulk
from ..session import Session
from ..settings import Settings
from ..telemetry import outages
from . import access as postgres_access
from . import database_errors, session_settings
from .outbox import Outbox

POSTGRES_MIN = 160000
"""PostgreSQL 16, the oldest that CI runs on."""

# A worker that is frozen in a transaction must not hold its row locks for ever: the server ends such a session.
IDLE_IN_TRANSACTION_MS = 10_000
# The longest wait for another worker's row lock; above the pause of a frozen worker it would never be reached.
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
# A day, for whoever stands at a breakpoint. Not 0: a session without a limit is refused (`refuse_unsafe`).
DEBUGGING_MS = 86_400_000
# A server that cannot be reached must be noticed well within the watchdog's budget, on both sides.
TCP_TIMEOUT_MS = 8_000
CONNECT_SECONDS = 5

POOLER_ROUNDS = 3
"""A pooler that takes turns among two sessions shows it in the second round."""


def connect(settings: Settings, service: str, pool_size: int, *, debugging: bool = False) -> Engine:
    """Make the engine of `service`; it opens no connection yet. While `debugging`, a transaction may stand still."""
    session_settings.forget_libpq_variables()
    handlers_ms = DEBUGGING_MS if debugging else int(settings.handler_seconds * 2_000)
    options = {
        # A handler that asks nothing leaves its session idle.
        "idle_in_transaction_session_timeout": max(IDLE_IN_TRANSACTION_MS, handlers_ms),
        "lock_timeout": LOCK_TIMEOUT_MS,
        "statement_timeout": max(STATEMENT_TIMEOUT_MS, handlers_ms),
        # Notices a client that died while its statement waits; without it the statement would go on to its end.
        "client_connection_check_interval": 1_000,
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
        "tcp_user_timeout": TCP_TIMEOUT_MS,
    }
    # A pooler refuses options, or drops them; the role has them then. And the statement that was prepared may be in
    # another session than the one that is to execute it.
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
        pool_pre_ping=True,
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
    database_errors.install(engine)
    return engine


def refuse_unsafe(engine: Engine) -> None:
    """Refuse a server that may lose what it has acknowledged, and a session that may wait for ever or write values in
    another form.

    Raises `Misconfigured`, naming the setting, or `DatabaseUnavailable` if there is no answer: it may come back.
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
    """Refuse a pooler that gives each transaction another session: a slot is a lock of one session. Raises
    `Misconfigured`.

    Two connections that are both open have two sessions, unless there is such a pooler, which gives the second the one
    that the first has just left; or, if it takes turns, the first another one than before.
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


Kind = TypeVar("Kind", bound=Session)


class Requests:
    """Transactions of HTTP requests."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox

    def transaction(self) -> AbstractContextManager[Session]:
        """Open a session; commit it, and what was published in it, when the block ends well; any exception undoes
        all.
        """
        return self.session(Session)

    @contextmanager
    def session(self, kind: type[Kind]) -> Iterator[Kind]:
        """Do what `transaction` does, with a session of this class."""
        with kind(self._engine) as session, session.begin():
            with session.lent():
                yield session
            self._outbox.write(session)
        outages.DATABASE.answered("requests")
