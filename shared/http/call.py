"""One request: its transaction, its idempotency, and the answer made of what the endpoint returns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Never

import msgspec
from fastapi import Request, Response
from sqlalchemy.exc import DBAPIError

from ..errors import Reject, SessionMisused
from ..events import Event
from ..postgres.backlog import Backlog
from ..postgres.engine import Requests
from ..postgres.outbox import Outbox
from ..scheduling import Change
from ..trace_context import Keys
from . import idempotency
from .idempotency import KeyReused, RequestKey, StoredResponse
from .places import Places
from .problems import MEDIA_TYPE, RETRY_SECONDS, Problem, busy
from .rate import Rate
from .tokens import Callers
from .transaction import Transaction

_LOCK_NOT_AVAILABLE = "55P03"
_READ_ONLY = "25006"
_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Parts:
    """What all calls share."""

    requests: Requests
    outbox: Outbox
    backlog: Backlog
    callers: Callers
    rate: Rate
    places: Places
    current_span: Callable[[], str | None] | None = None
    """Returns the trace context of the request's span; None while there are no traces."""
    baggage_keys: Keys = frozenset()
    """What is taken of a request's baggage."""


class Call:
    """One HTTP request."""

    def __init__(self, parts: Parts, request_key: RequestKey, traceparent: str | None, method: str) -> None:
        self._parts = parts
        self._request_key = request_key
        self.traceparent = traceparent
        self.method = method

    def answer(self, work: Callable[[Transaction], StoredResponse | Response], of: str) -> Response:
        """Run `work`, the endpoint `of`, in a transaction that commits when the answer is ready; that of a GET only
        reads. `Reject` is answered with 409.
        """
        try:
            with self._transaction() as session:
                made = work(session)
                return made if isinstance(made, Response) else _respond(made)
        except Reject as error:
            raise Problem(409, str(error)) from error
        except DBAPIError as error:
            if self.method not in _READS or getattr(error.orig, "sqlstate", None) != _READ_ONLY:
                raise
            raise SessionMisused(
                f"{of} writes, publishes or locks a row, and a {self.method} only reads: make it a POST or a PUT, or "
                f"read with `get`"
            ) from error

    def once(self, work: Callable[[Transaction], StoredResponse]) -> Response:
        """Run `work` and store its answer in the request's transaction; or return the answer of the request that this
        one repeats.

        A refusal (`Problem` below 500, or `Reject`) undoes the work and is stored as the answer in a second
        transaction: it has no effect to be atomic with. If a duplicate got in between, its answer is already stored,
        and is the one returned.
        """
        try:
            with self._transaction() as session:
                stored = self._begin(session)
                if stored is not None:
                    return _replay(stored)
                stored = work(session)
                idempotency.keep(session, self._request_key, stored)
        except Reject as error:
            problem = Problem(409, str(error))
        except Problem as error:
            if error.answer.status >= 500 or isinstance(error, _NotStored):
                raise
            problem = error
        else:
            return _respond(stored)
        with self._transaction() as session:
            stored = self._begin(session)
            if stored is not None:
                return _replay(stored)
            stored = StoredResponse(problem.answer.status, msgspec.Raw(problem.body()))
            idempotency.keep(session, self._request_key, stored)
        return problem.response()

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with self._parts.requests.session(Transaction, read_only=self.method in _READS) as session:
            session.publisher = partial(self._publish, session)
            session.scheduler = partial(self._schedule, session)
            yield session

    def _publish(self, session: Transaction, event: Event) -> None:
        if self._parts.backlog.full(session.connection()):
            raise busy("too many events wait to be published; the workers do not keep up")
        self._parts.outbox.add(session, event, self.traceparent)

    def _schedule(self, session: Transaction, event: Event, change: Change) -> None:
        self._parts.outbox.schedule(session, event, change, self.traceparent)

    def _begin(self, session: Transaction) -> StoredResponse | None:
        try:
            return idempotency.begin(session.connection(), self._request_key)
        except KeyReused as error:
            raise _NotStored(422, str(error), kind="idempotency-key-reused") from error
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            detail = "a request with this Idempotency-Key is still in progress"
            raise _NotStored(409, detail, kind="idempotency-key-in-use", retry_seconds=RETRY_SECONDS) from error


class _NotStored(Problem):
    """A refusal for the key itself."""


CURRENT: ContextVar[Call] = ContextVar("call")
"""The call of the request that this context serves. A dependency of the framework would cost each request ten times as
much."""


def call_of(request: Request, body: bytes) -> Call:
    """Return the call of a request whose headers were checked."""
    # `request.url` would be put together from the Host header, and taken apart again.
    request_key = RequestKey(
        scope=f"{request.state.caller} {request.method} {_quoted(request.scope['path'])}",
        key=request.headers.get("idempotency-key", ""),
        body=body,
        query=request.scope["query_string"].decode(),
    )
    return Call(request.app.state.parts, request_key, request.state.traceparent, request.method)


def _quoted(path: str) -> str:
    """Return a path as `request.url.path` has it, under which keys are stored."""
    return path.replace("?", "%3F").replace("#", "%23").replace("\\", "%5C")


def _respond(stored: StoredResponse) -> Response:
    headers = {} if stored.location is None else {"Location": stored.location}
    media_type = "application/json" if stored.status < 400 else MEDIA_TYPE
    return Response(bytes(stored.body), stored.status, headers, media_type if stored.body else None)


def _replay(stored: StoredResponse) -> Response:
    response = _respond(stored)
    response.headers["Idempotency-Replayed"] = "true"
    return response


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Never:
        if name in {"Answer", "Calling", "Route"}:
            raise ImportError(
                f"{name} is gone: an endpoint of `shared.http.Router` takes `session: Transaction` and returns its "
                f"body, or Created(body) (docs/upgrading.md)"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
