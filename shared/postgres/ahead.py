"""Statements sent together: one round trip for several, and for the BEGIN before them.

libpq's pipeline mode sends statements without waiting for the answers between them
(https://www.postgresql.org/docs/current/libpq-pipeline-mode.html). PostgreSQL runs them one after the other, each with
a snapshot of its own, and after an error none of the others.

Where a statement takes an array, it says `CAST((SELECT :ids) AS bigint[])`. PostgreSQL counts an array that it is given
plainly, finds a plan for one element cheaper than a plan for any number, and so plans the statement again for each
batch. A plan that is kept from when a table was empty must not read all of it later: rows of a table that grows are
found by an array in a condition, or by the order of an index, and not by a join.

psycopg's own pipeline is not used as it is. It waits for the BEGIN. And it sends a Flush behind its last Sync, at which
PostgreSQL stops its clock for idle transactions without starting it again: a client that stands still from then on
would hold its locks for ever. Its `executemany` ends so too, and is mended here.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection as PsycopgConnection
from psycopg.abc import PQGen
from psycopg.generators import send
from psycopg.pq import PipelineStatus
from sqlalchemy import Connection, Engine, TextClause, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg


class Statement(NamedTuple):
    """One of the library's statements, with its parameters."""

    text: TextClause
    parameters: Mapping[str, Any]


def install(engine: Engine) -> None:
    """Make `executemany` of `engine` end without a Flush. To be called after `bulk.install`, which comes first."""
    event.listen(engine, "do_executemany", _executemany)


def execute(connection: Connection, statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
    """Send `statements` together, in the connection's transaction; return the rows of each.

    Raises what SQLAlchemy raises for the first of them that fails.
    """
    if not connection.in_transaction():
        connection.begin()
    raw: Any = connection.connection.dbapi_connection
    cursors: list[psycopg.Cursor[Any]] = []
    try:
        with _Together(raw):
            for text, parameters in statements:
                cursors.append(raw.cursor())
                cursors[-1].execute(_sql(text), parameters)
    except psycopg.Error as error:
        failed = next((s for s, cursor in zip(statements, cursors, strict=False) if cursor.pgresult is None), None)
        # As SQLAlchemy's own execution does: it translates the error and gives up a connection that is lost.
        connection._handle_dbapi_exception(error, failed and _sql(failed.text), None, None, None)
    return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


@lru_cache(maxsize=500)  # the library has some dozens
def _sql(text: TextClause) -> str:
    return str(text.compile(dialect=PGDialect_psycopg()))  # type: ignore[no-untyped-call]


def _executemany(cursor: Any, statement: str, rows: Any, _context: object) -> bool:
    with _Together(cursor.connection):
        cursor.executemany(statement, rows)
    return True


class _Pipeline(psycopg.Pipeline):
    def _sync_gen(self) -> PQGen[None]:
        """Do not wait for the BEGIN: nothing else in here syncs before the end."""
        return
        yield

    def _exit_gen(self) -> PQGen[None]:
        self._enqueue_sync()
        first: psycopg.Error | None = None
        # What does not fit into the socket's buffer is not sent by the first of them.
        for step in (self._communicate_gen, self._send_gen, self._rest_gen):
            try:
                yield from step()
            except psycopg.Error as error:
                first = first or error
        if first is not None:
            raise first

    def _send_gen(self) -> PQGen[None]:
        yield from send(self.pgconn)

    def _rest_gen(self) -> PQGen[None]:
        yield from self._fetch_gen(flush=False)


class _Together:
    """What is executed inside is sent together; all answers are there at the end. Raises the first error."""

    def __init__(self, raw: PsycopgConnection[Any]) -> None:
        self._raw = raw
        self._pipeline = _Pipeline(raw)

    def __enter__(self) -> None:
        assert self._raw._pipeline is None
        self._pipeline.__enter__()
        self._raw._pipeline = self._pipeline

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            self._pipeline.__exit__(None, None, None)
        except psycopg.Error:
            if error is None:  # else it is the consequence
                raise
        finally:
            self._raw._pipeline = None
            if self._raw.pgconn.pipeline_status != PipelineStatus.OFF:
                self._raw.close()  # libpq is busy with a session that ends; nothing else could be asked of it
