"""Run the handlers of a batch in one transaction: rows are locked first, in key order."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ..declaration.routes import Route
from ..declaration.rows import Rows
from ..errors import HandlingFailed, Malformed, Retry
from ..events import Event, envelope
from ..protocol.ports import Delivery, Opened, Record
from ..service import Service
from ..session import Session
from ..telemetry import log_context
from ..telemetry.failures import describe, of_function
from .deadline import Deadline


class Handlers:
    """Opens records and runs the handlers of a batch."""

    def __init__(self, service: Service, deadline: Deadline | None = None) -> None:
        self.deadline = deadline or Deadline()
        self.at: tuple[Record, str] | None = None
        """The record being handled, and its handler."""
        self._routes: dict[type[Event], list[Route]] = {}
        self._decoders: dict[tuple[str, str], dict[int, msgspec.json.Decoder[Event]]] = {}
        for route in service.routes:
            self._routes.setdefault(route.event, []).append(route)
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

    def run(
        self, deliveries: Sequence[Delivery], session: Session, collect: Callable[[Delivery, Iterable[Event]], None]
    ) -> None:
        """Load what the batch needs, then handle one event at a time; `collect` takes what each publishes.

        Raises `HandlingFailed` with the record that failed, if known, and the reason as its cause.
        """
        with session.lent():
            self._load(deliveries, session)
            for delivery in deliveries:
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

    def _run_one(
        self, delivery: Delivery, session: Session, collect: Callable[[Delivery, Iterable[Event]], None]
    ) -> None:
        def handle(route: Route) -> None:
            collect(delivery, route.call(delivery.event, session))

        session.publisher = lambda event: collect(delivery, (event,))
        try:
            for route in self._routes[type(delivery.event)]:
                self.at = delivery.record, route.name
                self.deadline.call(handle, route)
        except KeyboardInterrupt:  # from a person at the terminal; a worker handles that signal itself
            raise
        except BaseException as error:  # noqa: BLE001 - one record must not end the process
            # A flush may have failed because of what an earlier record changed.
            raise HandlingFailed(delivery.record if session.is_active else None) from _exception(error)
        finally:
            self.at = None
            session.publisher = None

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


def _exception(error: BaseException) -> Exception:
    """Return `error` as an `Exception`: it may be `sys.exit`, a panic of a Rust extension or a cancelled task."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(": ".join(describe(error))).with_traceback(error.__traceback__)
