"""Run the handlers of a batch in one transaction: rows are locked first, in key order.

Then the events are handled in their order: one at a time, or a run of events of one type together if their handlers are
batch handlers.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, NoReturn

import msgspec

from ..declaration.batches import BatchRoute
from ..declaration.routes import Route
from ..declaration.rows import Rows
from ..errors import HandlingFailed, Malformed, Retry, SessionMisused
from ..events import Event, envelope
from ..protocol.ports import Delivery, Opened, Record
from ..scheduling import Change
from ..service import Service
from ..session import Session
from ..telemetry import log_context
from ..telemetry.failures import describe, of_function
from .deadline import Deadline


class At(NamedTuple):
    """What is being handled."""

    records: Sequence[Record]
    """One, or all of a batch handler's call."""
    handler: str


class Handlers:
    """Opens records and runs the handlers of a batch."""

    def __init__(self, service: Service, deadline: Deadline | None = None) -> None:
        self.deadline = deadline or Deadline()
        self.at: At | None = None
        self._routes: dict[type[Event], list[Route | BatchRoute]] = {}
        self._one_by_one: dict[type[Event], list[Route]] = {}
        self._together: dict[type[Event], list[BatchRoute]] = {}
        """A type is in one of these: it has handlers of one kind."""
        self._decoders: dict[tuple[str, str], dict[int, msgspec.json.Decoder[Event]]] = {}
        self._holding = {(route.event.topic, route.event.__name__.encode()) for route in service.routes if route.holds}
        for route in service.routes:
            self._routes.setdefault(route.event, []).append(route)
            if isinstance(route, BatchRoute):
                self._together.setdefault(route.event, []).append(route)
            else:
                self._one_by_one.setdefault(route.event, []).append(route)
            versions = self._decoders.setdefault((route.event.topic, route.event.__name__), {})
            versions[route.event.version] = msgspec.json.Decoder(route.event)

    def open(self, record: Record) -> Opened | None:
        """Decode a record; None if the service does not consume its type.

        Raises `Malformed` for what is not an event, and `Retry` for a version newer than all this service knows: in a
        rolling upgrade the producer may be ahead, which is no reason to set a good record aside. No upgrade brings back
        an older version.
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
        except MemoryError:  # perhaps not due to this record: it is retried alone
            raise
        except Exception as error:  # besides msgspec's errors: too deep, not UTF-8, or raised by an event's type
            raise Malformed(f"{found.type} cannot be read: {error}") from error

    def holds(self, record: Record) -> bool:
        """Whether later records of its key wait if `record` becomes a dead letter: known without reading it."""
        kind = dict(record.headers or ()).get("ce_type") or b""
        return bool(record.key) and (record.input.topic, kind.rpartition(b".v")[0]) in self._holding

    def run(self, deliveries: Sequence[Delivery], session: Session, collect: Callable[..., None]) -> None:
        """Load what the batch needs, then handle the events in their order. `collect(delivery, events)` takes what each
        publishes, and `collect(delivery, (event,), change)` what it schedules.

        Raises `HandlingFailed` with the record that failed, if known, and the reason as its cause.
        """
        with session.lent():
            self._load(deliveries, session)
            for kind, following in groupby(deliveries, key=lambda delivery: type(delivery.event)):
                if together := self._together.get(kind):
                    self._run_together(together, list(following), session, collect)
                    continue
                for delivery in following:
                    with log_context.bound(partial(log_context.of_delivery, delivery)):
                        self._run_one(delivery, session, collect)

    def places(self, deliveries: Sequence[Delivery]) -> list[str]:
        """List the batch's handlers and their events, for a failure whose traceback shows none of their lines."""
        counts = Counter(type(delivery.event) for delivery in deliveries)
        return [
            f"{of_function(route.handler)}: handles {kind.__name__}.v{kind.version}, {count} in this batch"
            for kind, count in counts.most_common()
            for route in self._routes[kind]
        ]

    def _run_one(self, delivery: Delivery, session: Session, collect: Callable[..., None]) -> None:
        def handle(route: Route) -> None:
            collect(delivery, route.call(delivery.event, session))

        def schedule(event: Event, change: Change, cause: Event | None = None) -> None:
            if cause is not None:
                raise SessionMisused("only a batch handler names the cause of what it schedules: leave out `cause=`")
            collect(delivery, (event,), change)

        session.publisher = lambda event: collect(delivery, (event,))
        session.scheduler = schedule
        try:
            for route in self._one_by_one[type(delivery.event)]:
                self.at = At((delivery.record,), route.name)
                self.deadline.call(handle, route)
        except KeyboardInterrupt:  # from a person at the terminal; a worker handles that signal itself
            raise
        except BaseException as error:  # noqa: BLE001 - one record must not end the process
            # A flush may have failed because of what an earlier record changed.
            raise HandlingFailed(delivery.record if session.is_active else None) from _exception(error)
        finally:
            self.at = None
            session.publisher = session.scheduler = None

    def _run_together(
        self,
        routes: Sequence[BatchRoute],
        deliveries: Sequence[Delivery],
        session: Session,
        collect: Callable[..., None],
    ) -> None:
        """Run the batch handlers of one type. Of several records, none is known to be the one that failed."""
        events = [delivery.event for delivery in deliveries]
        places = {id(event): place for place, event in enumerate(events)}

        def handle(route: BatchRoute) -> None:
            for place, event in route.call(events, session):
                collect(deliveries[place], (event,))

        def schedule(event: Event, change: Change, cause: Event | None = None) -> None:
            place = places.get(id(cause))
            if place is None:
                raise SessionMisused(
                    f"{type(event).__name__} is scheduled by a batch handler without its cause: give `cause=`, one of "
                    "the given events, the very object and not a copy"
                )
            collect(deliveries[place], (event,), change)

        session.publisher = _refuse_causeless
        session.scheduler = schedule
        try:
            for route in routes:
                self.at = At([delivery.record for delivery in deliveries], route.name)
                with log_context.bound(partial(log_context.of_batch, deliveries, route.name)):
                    self.deadline.call(handle, route)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            alone = deliveries[0].record if len(deliveries) == 1 and session.is_active else None
            raise HandlingFailed(alone) from _exception(error)
        finally:
            self.at = None
            session.publisher = session.scheduler = None

    def _load(self, deliveries: Sequence[Delivery], session: Session) -> None:
        """Load the declared rows of the whole batch: every handler's first rows, then all second ones, and so on; each
        model in key order.
        """
        record: Record | None = None

        def keys(rows: Mapping[type[Event], Sequence[Rows]]) -> dict[type[Any], set[object]]:
            nonlocal record
            wanted: dict[type[Any], set[object]] = {one.model: set() for of_event in rows.values() for one in of_event}
            for delivery in deliveries:
                record, event = delivery.record, delivery.event
                for one in rows[type(event)]:
                    wanted[one.model].update(one.keys(event, session))
            return wanted

        kinds = {type(delivery.event) for delivery in deliveries}
        routes = [(kind, route) for kind in kinds for route in self._routes[kind]]
        try:
            for stage in range(max((len(route.rows) for _, route in routes), default=0)):
                rows: dict[type[Event], list[Rows]] = {kind: [] for kind in kinds}
                for kind, route in routes:
                    rows[kind] += route.rows[stage : stage + 1]
                wanted = self.deadline.call(keys, rows)
                record = None
                for model in sorted(wanted, key=lambda model: model.__name__):
                    session.lock_all(model, wanted[model])
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            raise HandlingFailed(record) from _exception(error)


def _refuse_causeless(event: Event) -> NoReturn:
    raise SessionMisused(
        f"{type(event).__name__} is published by a batch handler without its cause: return `(cause, event)` instead"
    )


def _exception(error: BaseException) -> Exception:
    """Return `error` as an `Exception`: it may be `sys.exit`, a panic of a Rust extension or a cancelled task."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(": ".join(describe(error))).with_traceback(error.__traceback__)
