"""The connection lent to a handler or a request: it does everything but end the transaction.

The transaction is not theirs: it also contains the work of the batch's other handlers, the input's position, and what
is published.
"""

import re
from typing import Any, NoReturn, cast

from sqlalchemy import Connection, TextClause

from ..errors import SessionMisused

_ENDING = re.compile(
    r"(?:^|;)\s*(?:COMMIT|ROLLBACK|ABORT)\b|^\s*(?:BEGIN|START|END|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION)\b", re.I
)


def refuse(what: str) -> NoReturn:
    """Refuse to end the transaction. Raises `SessionMisused`."""
    raise SessionMisused(
        f"{what} is not for a handler or a request: the transaction ends with the whole batch, or with the request. "
        f"To undo a part of it, use `with session.begin_nested():`"
    )


def refuse_ending(statement: object) -> None:
    """Refuse a statement that ends or begins a transaction. Raises `SessionMisused`."""
    text = statement.text if isinstance(statement, TextClause) else statement
    if isinstance(text, str) and (found := _ENDING.search(text)):
        refuse(found[0].lstrip("; \n").upper())


class LentConnection(Connection):
    """A second view of a connection, with the same state."""

    def commit(self) -> None:
        """Refused."""
        refuse("commit")

    def rollback(self) -> None:
        """Refused."""
        refuse("rollback")

    def close(self) -> None:
        """Refused."""
        refuse("close")

    def invalidate(self, *_: Any) -> None:
        """Refused."""
        refuse("invalidate")

    def detach(self) -> None:
        """Refused."""
        refuse("detach")

    def get_transaction(self) -> Any:
        """Refused."""
        refuse("the connection's transaction")

    def execute(self, statement: Any, *arguments: Any, **more: Any) -> Any:
        """Execute anything but the end of the transaction."""
        refuse_ending(statement)
        return super().execute(statement, *arguments, **more)

    def exec_driver_sql(self, statement: str, *arguments: Any, **more: Any) -> Any:
        """Execute anything but the end of the transaction."""
        refuse_ending(statement)
        return super().exec_driver_sql(statement, *arguments, **more)


def lent(connection: Connection) -> Connection:
    """Return `connection` as lent to a handler."""
    made = LentConnection.__new__(LentConnection)
    made.__dict__ = connection.__dict__  # both share one state
    return cast("Connection", made)
