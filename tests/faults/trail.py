"""The service that the tests break: small, its topics named after it, and everything it does can be counted afterwards.

It keeps a trail for each key: the numbers of the events that were handled, in their order, and a count of the steps,
each of which is published, be it a handler's or a request's. So the database shows what took effect and how often, and
the steps on the topic must be 1, 2, 3, ... for each key: a gap is a lost event, a duplicate is an event published
twice, and any other order is one that the database did not decide.
"""

import ctypes
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar, cast

import msgspec
from dependency_injector import containers, providers
from sqlalchemy import ARRAY, BigInteger, Connection, Identity, Integer, Text, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.container import ServiceContainer
from shared.declaration.rows import lock
from shared.errors import Reject, Retry
from shared.events import Event
from shared.kafka import topics
from shared.postgres import tables
from shared.postgres.engine import refuse_unsafe
from shared.service import Service
from shared.session import Session
from shared.settings import Settings
from shared.worker import startup


class Base(DeclarativeBase):
    """The service's own tables."""


class Trail(Base):
    """One aggregate."""

    __tablename__ = "trail"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    steps: Mapped[int] = mapped_column(Integer)
    handled: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    requested: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class Effect(Base):
    """A row for each time an event took effect. No constraint refuses a second one: it must show."""

    __tablename__ = "effect"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    number: Mapped[int] = mapped_column(BigInteger)


class Switch(Base):
    """A test's switch: while the row `name` exists, an event that wishes `while <name>` fails so."""

    __tablename__ = "switch"

    name: Mapped[str] = mapped_column(Text, primary_key=True)


class Asked(Event, frozen=True, kw_only=True):
    """Consumed: add `number` to the trail of `trail`."""

    trail: Annotated[str, msgspec.Meta(min_length=1)]
    number: int
    wish: str = ""
    """What the handler does in addition or instead."""

    @property
    def key(self) -> str:
        """The trail."""
        return self.trail


class Told(Event, frozen=True, kw_only=True):
    """Published: this is step `step` of the trail, made because of `number`."""

    trail: str
    step: int
    number: int
    padding: str = ""

    @property
    def key(self) -> str:
        """The trail."""
        return self.trail


@dataclass(frozen=True)
class Kit:
    """A service, and the types of what it consumes and publishes."""

    service: Service
    asked: type[Asked]
    told: type[Told]


class Unlucky(Exception):
    """A defect of a handler."""


FAILURES: dict[str, type[Exception]] = {"reject": Reject, "retry": Retry, "defect": RuntimeError}
"""The failures that a switch turns on."""

DOWN = "down"
"""While a table of this name exists, an event that wishes `retry` finds its dependency down."""
GATE = "gate"
"""While a table of this name exists, an event that wishes `wait` is not handled to its end."""
AT_GATE = "SELECT to_regclass(:name) AS at_gate"
"""The statement of a handler that waits, seen in the server's activities."""


def step(session: Session, kit: Kit, key: str, number: int, *, requested: bool = False, padding: str = "") -> Told:
    """Make one step on the trail, and return what is published about it."""
    if requested:
        # A handler may be making the same trail at this moment. The handler needs no such care: its batch is repeated.
        session.execute(insert(Trail).values(key=key, steps=0, handled=[], requested=[]).on_conflict_do_nothing())
    trail = session.lock(Trail, key)
    if trail is None:
        trail = Trail(key=key, steps=0, handled=[], requested=[])
        session.add(trail)
    trail.steps += 1
    if requested:
        trail.requested = [*trail.requested, number]
    else:
        trail.handled = [*trail.handled, number]
    return kit.told(trail=key, step=trail.steps, number=number, padding=padding)


def handle(event: Asked, session: Session, kit: Kit) -> Iterable[Event]:
    """Handle an event as it wishes."""
    failure = event.wish.removeprefix("while ")
    if failure != event.wish and session.get(Switch, failure) is not None:
        raise FAILURES[failure](f"{failure} {event.number}")
    if event.wish == "reject":
        raise Reject(f"number {event.number} is never welcome")
    if event.wish == "reject with NUL":
        raise Reject("this text holds a NUL character: \x00")
    if event.wish == "defect":
        raise Unlucky(f"number {event.number}")
    if event.wish.startswith("retry") and session.connection().scalar(
        text("SELECT to_regclass(:name)"), {"name": DOWN}
    ):
        raise Retry(f"{DOWN} exists")
    while event.wish == "wait" and session.connection().scalar(text(AT_GATE), {"name": GATE}):
        time.sleep(0.02)
    if event.wish == "breakpoint":
        breakpoint()
    if event.wish == "table":
        session.execute(text("SELECT FROM not_migrated_yet"))
    _strain(event.wish.removeprefix("retry, then "), session)
    if event.wish == "NUL":
        session.add(Effect(key="\x00", number=event.number))
    session.add(Effect(key=event.trail, number=event.number))
    size = int(event.wish.removeprefix("publish ")) if event.wish.startswith("publish ") else 0
    told = step(session, kit, event.trail, event.number, padding="x" * size)
    if event.wish == "schedule":
        later = kit.told(trail=event.trail, step=0, number=event.number, padding="scheduled")
        session.schedule(later, after=timedelta(milliseconds=300), name=event.trail)
    return (told,)


def _strain(wish: str, session: Session) -> None:
    """Take long, or bring down the process or session."""
    if wish == "nap":
        time.sleep(0.1)
    if wish == "sql":
        session.execute(text("SELECT pg_sleep(60)"))
    if wish == "hang":
        # As a call into C that a signal does not interrupt: other threads take the signal, this one goes on waiting.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)
    if wish == "cancelled":
        session.execute(text("SET LOCAL statement_timeout = 50"))
        session.execute(text("SELECT pg_sleep(60)"))
    if wish == "backend":  # as a statement at which the server's process crashes
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    if wish == "crash":
        ctypes.string_at(0)  # a segfault, as in an extension


def make(name: str) -> Kit:
    """Make the service `name`; its topics begin with its name."""

    class Asked_(Asked, frozen=True, kw_only=True):  # noqa: N801 (renamed below)
        topic: ClassVar[str] = f"{name}.asked"

    class Told_(Told, frozen=True, kw_only=True):  # noqa: N801 (renamed below)
        topic: ClassVar[str] = f"{name}.told"

    for made, base in ((Asked_, Asked), (Told_, Told)):
        made.__name__ = made.__qualname__ = base.__name__

    service = Service(name, publishes=(Told_,))

    @service.on(Asked_)
    def handler(event: Asked, session: Session, _trail: Annotated[Trail | None, lock(by="trail")]) -> Iterable[Event]:
        return handle(event, session, kit)

    kit = Kit(service, Asked_, Told_)
    return kit


def create_tables(connection: Connection) -> None:
    """Create the library's tables and the service's own."""
    tables.metadata.create_all(connection)
    Base.metadata.create_all(connection)


def seed_lanes(connection: Connection, lanes: int) -> None:
    """Make the lanes, as `migrate` does."""
    connection.execute(
        text("INSERT INTO exactly_once_lane (lane) SELECT generate_series(0, :last)"), {"last": lanes - 1}
    )


def container(kit: Kit, settings: Settings) -> ServiceContainer:
    """Put the service together as a real one, from the same container.

    Only the history of migrations is not checked at the start: this service has none.
    """

    @containers.copy(ServiceContainer)
    class TrailContainer(ServiceContainer):
        service = providers.Object(kit.service)

    made = cast("ServiceContainer", TrailContainer())
    made.settings.override(providers.Object(settings))

    def check() -> None:
        topics.check_libraries()
        refuse_unsafe(made.worker_engine())
        startup.check_topics(made.worker_engine(), settings, kit.service)

    made.check.override(providers.Callable(check))
    return made


def build(name: str, settings: Settings) -> ServiceContainer:
    """Put the service `name` together."""
    return container(make(name), settings)
