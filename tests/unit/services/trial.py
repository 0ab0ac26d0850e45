"""Handlers of a service as a worker runs them: on the real session and a real PostgreSQL, without Kafka.

A trial is one transaction that nobody commits. What the handlers of a batch would be refused there, they are refused
here: events for aggregates that are not held, rows that the tables do not allow, what the session does not do.
"""

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.orm import DeclarativeBase

from shared.errors import HandlingFailed
from shared.events import Envelope, Event
from shared.postgres.handlers import Handlers
from shared.postgres.outbox import Outbox
from shared.protocol.ports import Delivery, Input, Record
from shared.service import Service
from shared.session import Session

EVENT_BYTES_MAX = 900_000
"""As EVENT_BYTES_MAX is by default, nearly."""


class Trial:
    """A database with the service's tables, and whatever rows are given."""

    def __init__(self, connection: Connection, service: Service, base: type[DeclarativeBase]) -> None:
        self._connection = connection
        self._service = service
        self._base = base
        self._offset = 0
        self._outbox = Outbox(service, EVENT_BYTES_MAX)

    def given(self, *rows: DeclarativeBase) -> None:
        """Put rows into the database."""
        with Session(self._connection) as session:
            session.add_all(rows)
            session.commit()

    def handle(self, *events: Event) -> list[Event]:
        """Handle `events` as one batch; return what is published. Raises what a handler raises, or the database."""
        deliveries = [self._delivery(event) for event in events]
        published: list[Event] = []
        with Session(self._connection) as session:

            def collect(delivery: Delivery, told: Iterable[Event]) -> None:
                for event in told:
                    self._outbox.collect(session, event, f"{delivery.envelope.id}.{len(published)}", None)
                    published.append(event)

            try:
                Handlers(self._service).run(deliveries, session, collect)
                self._outbox.write(session)
            except HandlingFailed as failure:
                raise failure.__cause__ or failure from None
            session.commit()
        return published

    def find(self, model: type[Any], key: object) -> Any:
        """Return a row as it is in the database; None if there is none."""
        with Session(self._connection) as session:
            found = session.get(model, key)
            session.commit()
            return found

    def rows(self) -> dict[str, set[tuple[object, ...]]]:
        """Return all rows of the service's tables as text, to be compared."""
        tables = self._base.metadata.sorted_tables
        return {
            table.name: {tuple(map(repr, row)) for row in self._connection.execute(select(table))} for table in tables
        }

    def _delivery(self, event: Event) -> Delivery:
        self._offset += 1
        name = type(event).__name__
        envelope = Envelope(f"trial:{self._offset}", "trial", name, event.version, "", event.key, b"")
        return Delivery(Record(Input(event.topic, 0), self._offset, event.key.encode(), b"", None), envelope, event, 0)


MakeTrial = Callable[[Service, type[DeclarativeBase]], Trial]
"""What the fixture `trial` gives."""
