"""What an endpoint gets besides its parameters: the request's transaction, its idempotency, its trace, and a way to
publish events.
"""

import re
import secrets
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect

from ..errors import Reject
from ..events import Event
from ..postgres.backlog import Backlog
from ..postgres.engine import Requests
from ..postgres.outbox import Outbox
from ..session import Session
from ..telemetry import log_context
from . import idempotency
from .idempotency import KeyReused, RequestKey, StoredResponse
from .places import Places, resource
from .problems import MEDIA_TYPE, NOT_JSON, RETRY_SECONDS, Problem, busy
from .rate import Rate
from .tokens import Callers

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_LOCK_NOT_AVAILABLE = "55P03"

KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "New for each intent, the same whenever it is repeated. The answer is kept and given again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
    "example": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
}
"""How OpenAPI tells of the header; `Route` checks it before the framework looks at anything."""


class ApiResponse(NamedTuple):
    """What a POST answers when it has done its work."""

    status: int
    body: BaseModel
    location: str | None = None


@dataclass(frozen=True)
class Parts:
    """What every call works with."""

    requests: Requests
    outbox: Outbox
    backlog: Backlog
    callers: Callers
    rate: Rate
    places: Places


class Call:
    """One HTTP request."""

    def __init__(self, parts: Parts, request_key: RequestKey, traceparent: str) -> None:
        self._parts = parts
        self._request_key = request_key
        self.traceparent = traceparent

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open the request's transaction; it commits when the block ends well."""
        with self._parts.requests.transaction() as session:
            yield session

    def publish(self, session: Session, event: Event) -> None:
        """Publish `event` when the transaction commits. Refused with 503 while too many events wait: no worker seems to
        publish them.
        """
        if self._parts.backlog.full(session.connection()):
            raise busy("too many events wait to be published; no worker keeps up")
        self._parts.outbox.add(session, event, self.traceparent)

    def once(self, work: Callable[[Session], ApiResponse]) -> Response:
        """Do `work` in the request's transaction, together with its answer; or return the answer of the request that
        this one repeats.

        A refusal (`Problem` below 500, or `Reject`) undoes the work and is kept as the answer in a transaction of its
        own: it has no effect that it would have to be atomic with, and if a concurrent request got in between, its
        answer is kept already and is the one given.
        """
        try:
            with self.transaction() as session:
                stored = self._begin(session)
                if stored is not None:
                    return _replay(stored)
                answer = work(session)
                body = answer.body.model_dump_json().encode()
                stored = StoredResponse(answer.status, msgspec.Raw(body), answer.location)
                idempotency.keep(session.connection(), self._request_key, stored)
        except Reject as error:
            problem = Problem(409, str(error))
        except Problem as error:
            if error.answer.status >= 500 or isinstance(error, _NotStored):
                raise
            problem = error
        else:
            return _respond(stored)
        with self.transaction() as session:
            stored = self._begin(session)
            if stored is not None:
                return _replay(stored)
            stored = StoredResponse(problem.answer.status, msgspec.Raw(problem.body()))
            idempotency.keep(session.connection(), self._request_key, stored)
        return problem.response()

    def _begin(self, session: Session) -> StoredResponse | None:
        try:
            return idempotency.begin(session.connection(), self._request_key)
        except KeyReused as error:
            raise _NotStored(422, str(error), kind="idempotency-key-reused") from error
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            detail = "a request with this Idempotency-Key is still at work"
            raise _NotStored(409, detail, kind="idempotency-key-in-use", retry_seconds=RETRY_SECONDS) from error


class _NotStored(Problem):
    """A refusal for the key itself."""


class Route(APIRoute):
    """A route that checks the caller and the headers of a request before anything reads its body."""

    @property
    def scope(self) -> str:
        """What a token must permit: to read or to write what the router's first tag names."""
        return f"{self.tags[0]}:{'read' if (self.methods or set()) <= {'GET', 'HEAD'} else 'write'}"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            request.state.caller = _admitted(request, self.scope)
            _check_content_type(request)
            keys = request.headers.getlist("idempotency-key")
            if request.method == "POST" and (len(keys) != 1 or _KEY.fullmatch(keys[0]) is None):
                detail = "every POST needs one Idempotency-Key: 1 to 255 visible ASCII characters, new for each intent"
                raise Problem(400, detail, kind="idempotency-key-unusable")
            request.state.traceparent = _traceparent(request)
            facts = _facts(request, keys)
            with log_context.bound(lambda: facts):
                return await _placed(request, handle)

        return checked


def _facts(request: Request, keys: list[str]) -> Mapping[str, object]:
    """Name a request for the log lines of its endpoint."""
    return {
        "method": request.method,
        "path": request.url.path[: log_context.VALUE_MAX],
        **({"idempotency_key": keys[0][: log_context.VALUE_MAX]} if keys else {}),
        **log_context.trace(request.state.traceparent),
    }


async def _placed(request: Request, handle: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    """Handle a request; if it changes something, in a place that is shared by `Places`."""
    if request.method in {"GET", "HEAD"}:
        return await handle(request)
    try:
        await request.body()  # first: a slow sender must hold no place
    except ClientDisconnect as error:
        raise Problem(400, NOT_JSON, kind="not-json") from error
    parts: Parts = request.app.state.parts
    async with parts.places.take(resource(request)):
        return await handle(request)


def _admitted(request: Request, scope: str) -> str:
    """Return the caller's name. Raises `Problem`."""
    parts: Parts = request.app.state.parts
    caller = parts.callers.identify(request)
    address = request.client.host if request.client else "unknown"
    # Whoever has not proved his name is counted by his address: a name that is free to choose limits nobody.
    parts.rate.take(f"name {caller.name}" if caller and caller.digest else f"address {address}")
    return parts.callers.admit(caller, scope, tried="authorization" in request.headers)


def _check_content_type(request: Request) -> None:
    if request.method not in {"POST", "PUT", "PATCH"}:
        return
    headers = request.headers
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not empty and given != "application/json":
        raise Problem(415, "the body must be application/json")
    if headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "the body must be sent as it is, without a Content-Encoding")


def _traceparent(request: Request) -> str:
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


async def _call(request: Request) -> Call:
    request_key = RequestKey(
        scope=f"{request.state.caller} {request.method} {request.url.path}",
        key=request.headers.get("idempotency-key", ""),
        body=await request.body(),
    )
    return Call(request.app.state.parts, request_key, request.state.traceparent)


CurrentCall = Annotated[Call, Depends(_call)]
"""The parameter of an endpoint that changes something."""


def _respond(stored: StoredResponse) -> Response:
    headers = {} if stored.location is None else {"Location": stored.location}
    return Response(
        bytes(stored.body), stored.status, headers, "application/json" if stored.status < 400 else MEDIA_TYPE
    )


def _replay(stored: StoredResponse) -> Response:
    response = _respond(stored)
    response.headers["Idempotency-Replayed"] = "true"
    return response
