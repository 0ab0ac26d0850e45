"""Handlers of a service as a worker runs them: on the real session and a real PostgreSQL, without Kafka.

A trial is one transaction that is never committed. It refuses what a worker refuses: events for aggregates that are not
held, rows that the tables do not allow, operations that the session does not allow.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, select, text
from sqlalchemy.orm import DeclarativeBase

from ..calls.declaration import Answer, Call, Done, GivenUp, Verdict
from ..calls.outbox import CallingOutbox
from ..calls.settling import events_of
from ..events import Event
from ..service import Service
from ..session import Session
from .scene import EVENT_BYTES_MAX, Model, Scheduled, handle, settle

_SCHEDULED = text("SELECT name, event_type, data, due FROM exactly_once_schedule ORDER BY name")


class Trial:
    """A database with the service's tables and given rows."""

    def __init__(self, connection: Connection, service: Service, base: type[DeclarativeBase]) -> None:
        self._connection = connection
        self._service = service
        self._base = base
        self._outbox = CallingOutbox(service, EVENT_BYTES_MAX)

    def given(self, *rows: DeclarativeBase) -> None:
        """Insert rows."""
        with Session(self._connection) as session:
            session.add_all(rows)
            session.commit()

    def when(self, *events: Event) -> list[Event]:
        """Handle `events` as one batch; return what is published. Raises what a handler raises, or the database."""
        with Session(self._connection) as session:
            published = handle(self._service, session, events)
            self._outbox.write(session)
            session.commit()
        return published

    def answered(self, call: Call, answer: Answer) -> list[Event]:
        """Let `call` decide what `answer` means; return what is published, calls among it. Raises `Retry` if it is to
        be asked again, or what the call raises, or the database.
        """
        return self._settled(lambda session: call.answered(answer, session))

    def given_up(self, call: Call, why: GivenUp) -> list[Event]:
        """Give `call` up; return what is published, calls among it. Raises what the call raises, or the database."""
        return self._settled(lambda session: Done(*events_of(call.given_up(why, session), call)))

    def _settled(self, decide: Callable[[Session], Verdict]) -> list[Event]:
        with Session(self._connection) as session:
            published = settle(self._service, session, decide)
            self._outbox.write(session)
            session.commit()
        return published

    def row(self, model: type[Model], key: Any) -> Model:
        """Return a row as stored in the database. Raises `LookupError` if there is none."""
        with Session(self._connection) as session:
            found = session.get(model, key)
            session.commit()
        if found is None:
            raise LookupError(f"there is no {model.__name__} {key!r}")
        return found

    @property
    def scheduled(self) -> dict[str, Scheduled]:
        """What is scheduled, by name, and when it is due."""
        types = {event.__name__: event for event in self._service.publishes}
        return {
            name: Scheduled(msgspec.json.decode(data, type=types[event_type]), None, due)
            for name, event_type, data, due in self._connection.execute(_SCHEDULED)
        }

    def everything(self) -> dict[str, set[tuple[object, ...]]]:
        """Return all rows of the service's tables as text, for comparison."""
        tables = self._base.metadata.sorted_tables
        return {
            table.name: {tuple(map(repr, row)) for row in self._connection.execute(select(table))} for table in tables
        }


MakeTrial = Callable[[Service, type[DeclarativeBase]], Trial]
"""What the fixture `trial` returns."""
