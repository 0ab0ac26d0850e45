"""A small service for the operator's tests: it adds up numbers by key.

Every effect leaves a row of its own, and every event that is published carries its number, so that afterwards it can be
told what was lost, and what happened twice, in the database and in the topic. As a program it is one worker of the
service.
"""

import json
import sys
from collections.abc import Iterable
from typing import ClassVar, cast

from dependency_injector import containers, providers
from sqlalchemy import BigInteger, Identity, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.container import ServiceContainer
from shared.errors import Reject, Retry
from shared.events import Event
from shared.service import Read, Service, on
from shared.session import Session
from shared.settings import Settings
from shared.telemetry import metrics
from shared.worker import startup


class Base(DeclarativeBase):
    """The service's own tables."""


class Tally(Base):
    """The sum of a key."""

    __tablename__ = "tally"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    total: Mapped[int] = mapped_column(BigInteger)


class Effect(Base):
    """One row each time that a number took effect; nothing refuses a second one."""

    __tablename__ = "effect"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Switch(Base):
    """While `on`, numbers that wish so fail."""

    __tablename__ = "switch"

    name: Mapped[str] = mapped_column(Text, primary_key=True)


class Asked(Event, frozen=True, kw_only=True):
    """Consumed: add `number` to the tally of `tally`."""

    tally: str
    number: int
    wish: str = ""

    @property
    def key(self) -> str:
        """The tally."""
        return self.tally


class Told(Event, frozen=True, kw_only=True):
    """Published: `number` was added."""

    tally: str
    number: int
    total: int
    padding: str = ""

    @property
    def key(self) -> str:
        """The tally."""
        return self.tally


def add(session: Session, told: type[Told], key: str, number: int, padding: str = "") -> Told:
    """Add a number, and return what is published about it."""
    tally = session.lock(Tally, key)
    if tally is None:
        tally = Tally(key=key, total=0)
        session.add(tally)
    tally.total += number
    session.add(Effect(number=number))
    return told(tally=key, number=number, total=tally.total, padding=padding)


def service(name: str) -> tuple[Service, type[Asked], type[Told]]:
    """Make the service `name`; its topics begin with its name."""

    class Asked_(Asked, frozen=True, kw_only=True):  # noqa: N801 - renamed below
        topic: ClassVar[str] = f"{name}.asked"

    class Told_(Told, frozen=True, kw_only=True):  # noqa: N801 - renamed below
        topic: ClassVar[str] = f"{name}.told"

    Asked_.__name__, Told_.__name__ = Asked.__name__, Told.__name__

    def handle(event: Asked, session: Session) -> Iterable[Event]:
        if event.wish and session.get(Switch, event.wish) is not None:
            raise {"reject": Reject, "retry": Retry, "defect": RuntimeError}[event.wish](f"{event.wish} {event.number}")
        return (add(session, Told_, event.tally, event.number),)

    made = Service(
        name=name, routes=(on(Asked_, handle, Read(Tally, lambda event, _: (event.tally,))),), publishes=(Told_,)
    )
    return made, Asked_, Told_


def container(made: Service, settings: Settings) -> ServiceContainer:
    """Put the service together as a real one."""

    @containers.copy(ServiceContainer)
    class TallyContainer(ServiceContainer):
        service = providers.Object(made)

    built = cast("ServiceContainer", TallyContainer())
    built.settings.override(providers.Object(settings))
    # The history of migrations is not checked: this service has none.
    built.check.override(providers.Callable(lambda: startup.check_topics(built.worker_engine(), settings, made)))
    return built


if __name__ == "__main__":
    # A worker process; its database is in the environment, where a password belongs.
    told = json.loads(sys.argv[2])
    del told["database_url"]
    settings = Settings(**told)
    metrics.configure(settings)
    worker = container(service(sys.argv[1])[0], settings).worker()
    if settings.metrics_port:
        metrics.serve("127.0.0.1", settings.metrics_port, worker.ready)
    worker.run()
