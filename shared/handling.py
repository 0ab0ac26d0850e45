"""How an event finds its handlers, and what a service declares about itself.

A handler is a function `handler(event, session) -> events to say`. It knows no broker, no clock and no HTTP; it reads
and writes through the session.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from sqlalchemy import inspect as mapping

from . import log_context
from .deadline import Deadline
from .errors import HandlingFailed, Malformed, Retry
from .events import Event, envelope
from .failures import describe, of_function
from .ports import Delivery, Opened, Record
from .session import Session

Heard = TypeVar("Heard", bound=Event)
Handler = Callable[[Heard, Session], Iterable[Event]]


@dataclass(frozen=True)
class Read:
    """The rows that a handler will need: loaded and locked once for the whole batch, before its first handler runs."""

    model: type[Any]
    keys: Callable[[Any, Session], Iterable[object]]
    """Gives the primary keys from the event, a tuple for each if the key has several columns; may look at rows that an
    earlier `Read` of the same route has loaded.
    """

    def __post_init__(self) -> None:
        if not hasattr(mapping(self.model, raiseerr=False), "primary_key"):
            raise TypeError(f"Read({self.model!r}, ...): its first argument is a class of a table")
        _refuse_unfit(self.keys, f"the keys of Read({self.model.__name__}, ...)")


@dataclass(frozen=True)
class Route:
    """One handler of one type of event."""

    event: type[Event]
    handler: Callable[[Any, Session], Iterable[Event]]
    reads: tuple[Read, ...]


def on(event: type[Heard], handler: Handler[Heard], *reads: Read) -> Route:
    """Route `event` to `handler`, which needs `reads`. Several handlers of one type run in their order, in one
    transaction.

    Raises `TypeError` for what cannot be a handler: one that is `async`, or that does not take an event and a session.
    """
    given: Any = (event, *reads)
    if not (isinstance(given[0], type) and issubclass(given[0], Event)):
        raise TypeError(f"on({event!r}, ...): its first argument is a class of events")
    _refuse_unfit(handler, f"the handler of {event.__name__}")
    if wrong := [read for read in given[1:] if not isinstance(read, Read)]:
        raise TypeError(f"on({event.__name__}, ...): {wrong[0]!r} is no Read(Model, keys)")
    return Route(event, handler, reads)


def _refuse_unfit(function: Any, what: str) -> None:
    """Refuse what a batch cannot call as `function(event, session)`. Raises `TypeError`."""
    name = f"{what}, {getattr(function, '__qualname__', function)!s},"
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"{name} is no function; it is called with an event and a session")
    called = inspect.unwrap(getattr(function, "func", function))  # of a partial
    called = called if inspect.isroutine(called) else type(called).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(
            f"{name} is async; it runs inside one database transaction, on a session that is not: write it with `def`, "
            f"and leave what has to wait for somebody else to another process"
        )
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{name} is called with an event and a session, and takes something else: {error}") from error


@dataclass(frozen=True)
class Service:
    """What a service is to the library: its name, what it hears, what it says."""

    name: str
    routes: tuple[Route, ...]
    says: tuple[type[Event], ...]

    @property
    def hears(self) -> tuple[str, ...]:
        """The topics it consumes, in name order."""
        return tuple(sorted({route.event.topic for route in self.routes}))

    @property
    def speaks_on(self) -> tuple[str, ...]:
        """The topics it produces to, in name order."""
        return tuple(sorted({event.topic for event in self.says}))

    @property
    def lane_topic(self) -> str:
        """The empty topic whose assignment decides who relays which lane, and whose committed offsets are P."""
        return f"{self.name}.outbox"

    @property
    def dead_letter_topic(self) -> str:
        """The topic that tells of records set aside."""
        return f"{self.name}.dead-letters"


class Handlers:
    """Opens records and runs the handlers of a batch."""

    def __init__(self, service: Service, deadline: Deadline | None = None) -> None:
        self.deadline = deadline or Deadline()
        self.at: tuple[Record, str] | None = None
        """What is being handled, and by which handler."""
        self._routes: dict[type[Event], list[Route]] = {}
        self._decoders: dict[tuple[str, str], dict[int, msgspec.json.Decoder[Event]]] = {}
        for route in service.routes:
            self._routes.setdefault(route.event, []).append(route)
            versions = self._decoders.setdefault((route.event.topic, route.event.__name__), {})
            versions[route.event.version] = msgspec.json.Decoder(route.event)

    def open(self, record: Record) -> Opened | None:
        """Read a record; None if the service does not hear its type.

        Raises `Malformed` for what is not an event, and `Retry` for a version above all that this service knows: in a
        rolling upgrade the producer may be ahead, and a good record must not be set aside for it. No upgrade brings an
        older one.
        """
        found = envelope(record.key, record.value, record.headers)
        versions = self._decoders.get((record.input.topic, found.type))
        if versions is None:
            return None
        decoder = versions.get(found.version)
        if decoder is None and found.version > max(versions):
            raise Retry(
                f"{found.type}.v{found.version} is unknown, only {sorted(versions)}: upgrade this service to one that "
                f"knows it"
            )
        if decoder is None:
            raise Malformed(f"{found.type}.v{found.version} is older than what this service knows, {sorted(versions)}")
        try:
            return Opened(found, decoder.decode(found.data))
        except MemoryError:  # perhaps not for this record: it is tried again, alone
            raise
        except Exception as error:  # besides errors of msgspec: too deep, not UTF-8, or what a type of the event raises
            raise Malformed(f"{found.type} cannot be read: {error}") from error

    def run(
        self, deliveries: Sequence[Delivery], session: Session, collect: Callable[[Delivery, Iterable[Event]], None]
    ) -> None:
        """Load what the batch needs, then handle one event at a time; `collect` takes what each says.

        Raises `HandlingFailed` with the index of the delivery that failed, as far as it is known, and the reason as its
        cause.
        """
        with session.lent():
            self._load(deliveries, session)
            for delivery in deliveries:
                with log_context.bound(partial(log_context.of_delivery, delivery)):
                    self._run_one(delivery, session, collect)

    def places(self, deliveries: Sequence[Delivery]) -> list[str]:
        """Say which handlers a batch has, and for which of its events: for a failure that shows none of their lines."""
        counts = Counter(type(delivery.event) for delivery in deliveries)
        return [
            f"{of_function(route.handler)}: handles {kind.__name__}.v{kind.version}, {count} in this batch"
            for kind, count in counts.most_common()
            for route in self._routes[kind]
        ]

    def _run_one(
        self, delivery: Delivery, session: Session, collect: Callable[[Delivery, Iterable[Event]], None]
    ) -> None:
        def handle(route: Route) -> None:
            collect(delivery, _said(route, delivery.event, session))

        try:
            for route in self._routes[type(delivery.event)]:
                self.at = delivery.record, getattr(route.handler, "__qualname__", repr(route.handler))
                self.deadline.call(handle, route)
        except KeyboardInterrupt:  # of the person at the terminal; a worker has its own answer to that signal
            raise
        except BaseException as error:  # noqa: BLE001 - what one record brings about must not end the process
            # A flush that failed may have failed for what the record before has changed.
            raise HandlingFailed(delivery.record if session.is_active else None) from _exception(error)
        finally:
            self.at = None

    def _load(self, deliveries: Sequence[Delivery], session: Session) -> None:
        """Load the declared rows of the whole batch: all first reads, then all second reads, and so on; each model in
        key order.
        """

        def keys(read: Read, delivery: Delivery) -> list[object]:
            return list(read.keys(delivery.event, session))

        record: Record | None = None
        stage = 0
        try:
            while True:
                wanted: dict[type[Any], set[object]] = {}
                for delivery in deliveries:
                    record = delivery.record
                    for route in self._routes[type(delivery.event)]:
                        if stage < len(route.reads):
                            read = route.reads[stage]
                            wanted.setdefault(read.model, set()).update(self.deadline.call(keys, read, delivery))
                record = None
                if not wanted:
                    return
                for model in sorted(wanted, key=lambda model: model.__name__):
                    session.lock_all(model, wanted[model])
                stage += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            raise HandlingFailed(record) from _exception(error)


def _exception(error: BaseException) -> Exception:
    """Give `error` as one that a record may fail for: `sys.exit`, a panic of an extension in Rust, a cancelled task."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(": ".join(describe(error))).with_traceback(error.__traceback__)


def _said(route: Route, event: Event, session: Session) -> Iterable[Event]:
    """Run a handler. Raises `TypeError` if it gives no events: to have forgotten `return` must not lose one."""
    given: Any = route.handler(event, session)
    if isinstance(given, Event) or not isinstance(given, Iterable):
        name = getattr(route.handler, "__qualname__", route.handler)
        raise TypeError(
            f"{name} gave {'one event' if isinstance(given, Event) else type(given).__name__}; a handler returns all "
            f"events to say in a tuple or a list, `()` if there are none"
        )
    return given
