"""Diagnose what a service must stop for, by asking Kafka and PostgreSQL again with separate clients.

A worker stops for nothing that its own clients report until this confirms it, and resumes once this reports nothing;
`positions show` prints the same words.
"""

from collections.abc import Sequence

from sqlalchemy import Engine, text

from ..errors import ContentStuck, KafkaWentBack, NotLetIn, Stop
from ..postgres import positions
from ..service import Service
from ..settings import Settings
from ..worker import startup
from . import survey
from .group import Group

_ROW = text("SELECT EXISTS (SELECT FROM exactly_once_outbox WHERE event_id = :event_id)")


def diagnose(engine: Engine, settings: Settings, service: Service) -> list[Stop]:
    """Return all that workers must stop for, the deepest cause first.

    Raises `KafkaUnavailable`, `DatabaseUnavailable`, `CommandFailed` or `DBAPIError` if a server does not answer,
    `Misconfigured`.
    """
    seen = startup.see_topics(settings, service)
    startup.refuse_missing(service, seen)
    with engine.connect() as connection:
        with connection.begin():
            topics = startup.compare_topics(connection, settings, service, seen)
        if topics:
            return list(topics.values())  # the positions are of another log
        with Group(settings, service) as group:
            found = [state.disagreement(service.name) for state in survey.inputs(connection, group, service)]
            found += [state.disagreement(service.name) for state in survey.lanes(connection, group, service)]
    return [stop for stop in found if stop is not None]


def stands(stop: Stop | NotLetIn, engine: Engine, settings: Settings, service: Service) -> Sequence[Stop]:
    """Return what a worker that stopped for `stop` must still stop for; nothing if it may resume.

    Raises what `diagnose` raises.
    """
    if isinstance(stop, ContentStuck):
        with engine.connect() as connection, connection.begin():
            if connection.execute(_ROW, {"event_id": stop.event_id}).scalar_one():
                return [stop]
    if found := diagnose(engine, settings, service):
        return found
    if isinstance(stop, KafkaWentBack) and stop.held is not None:
        source, position = stop.held
        with engine.connect() as connection, connection.begin():
            if positions.read(connection, [source]).get(source) == position:
                # It has since grown beyond the next offset, but with other records than those handled before the cut.
                return [stop]
    return []
