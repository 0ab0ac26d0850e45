"""The contents of the services' databases, read with plain SQL, each in one snapshot.

Orders are joined across the three by merging sorted streams, so memory does not grow with their number.
"""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from typing import Any, Self

import psycopg
from psycopg import Connection, IsolationLevel
from psycopg.rows import dict_row

from dev.balance.queries import CONSUMED, ORDERS, PUBLISHED_TOPICS
from dev.balance.rules import SERVICES, Order
from dev.balance.sheet import OFFENDERS_SHOWN, Offenders

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 60
ROWS_AT_ONCE = 2_000


class Databases:
    """A connection for each service, each with one read-only snapshot."""

    def __init__(self, dsns: Mapping[str, str]) -> None:
        self._dsns = dsns
        self.services = tuple(dsns)
        self._stack = ExitStack()
        self._connections: dict[str, Connection[tuple[Any, ...]]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for service in self.services:
                connection = stack.enter_context(
                    psycopg.connect(
                        self._dsns[service],
                        connect_timeout=CONNECT_SECONDS,
                        options=f"-c statement_timeout={STATEMENT_SECONDS}s -c timezone=UTC",
                        application_name="balance",
                    )
                )
                connection.read_only = True
                connection.isolation_level = IsolationLevel.REPEATABLE_READ
                self._connections[service] = connection
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows(self, service: str, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query with a small answer."""
        return self._connections[service].execute(query.encode(), parameters or None).fetchall()

    def dicts(self, service: str, query: str, **parameters: object) -> list[dict[str, Any]]:
        """Return all rows of a query with a small answer, by name."""
        with self._connections[service].cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters or None).fetchall()

    def consumed(self, service: str) -> tuple[str, ...]:
        """Name the topics that a service consumes, as far as its database knows."""
        return tuple(name for (name,) in self.rows(service, CONSUMED, own=f"{service}."))

    def published_topics(self, service: str) -> tuple[str, ...]:
        """Name the topics on which a service has published something, whatever they are called."""
        return tuple(name for (name,) in self.rows(service, PUBLISHED_TOPICS))

    def number(self, service: str, query: str) -> int:
        """Return the one number that a query answers."""
        ((found,),) = self.rows(service, query)
        return int(found or 0)

    def offenders(self, service: str, query: str, **parameters: object) -> Offenders:
        """Count what `query` finds, and return the first few; its one column is text that begins with an id."""
        counted = (
            f"WITH bad (what) AS MATERIALIZED ({query})"
            f" SELECT (SELECT count(*) FROM bad), ARRAY(SELECT what FROM bad LIMIT {OFFENDERS_SHOWN})"
        )
        ((count, first),) = self.rows(service, counted, **parameters)
        return Offenders(count, first)

    def stream(self, service: str, query: str) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a query with a large answer, a few thousand at a time."""
        connection = self._connections[service]
        with connection.cursor(name=f"stream_{service}") as cursor:
            cursor.itersize = ROWS_AT_ONCE
            yield from cursor.execute(query.encode())

    def orders(self) -> Iterator[Order]:
        """Return every order that any of the three services has, in the order of the ids."""
        streams = [self._tagged(service) for service in SERVICES]
        for order_id, found in groupby(
            heapq.merge(*streams, key=lambda tagged: tagged[0]), key=lambda tagged: tagged[0]
        ):
            yield _order(order_id, {service: row for _, service, row in found})

    def _tagged(self, service: str) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        for row in self.stream(service, ORDERS[service]):
            yield row[0], service, row


_NO_ROW: tuple[Any, ...] = ("", "-", None, None, None)


def _order(order_id: str, rows: Mapping[str, tuple[Any, ...]]) -> Order:
    order, reservation, payment = (rows.get(service, _NO_ROW) for service in SERVICES)
    comparable = order is not _NO_ROW and reservation[4]  # a reservation cancelled in advance names no lines
    return Order(
        id=order_id,
        order=order[1],
        reservation=reservation[1],
        payment=payment[1],
        amounts=frozenset((row[2], row[3]) for row in (order, reservation, payment) if row[2] is not None),
        same_lines=not comparable or order[4] == reservation[4],
        net=int(payment[4] or 0),
    )
