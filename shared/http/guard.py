"""The outermost layer of the HTTP API: what a request may cost, how long it took, and what is said when it fails."""

import time

import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.problems import Problem, busy, defect

SECONDS = Histogram("http_request_seconds", "Time to answer", ["method", "route", "status"])
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that wait or are at work")
REFUSED = Counter("http_requests_refused_total", "Requests refused because too many were in flight")

IN_FLIGHT_MAX = 500
"""Each waits for a thread and may hold a body; beyond this, waiting helps nobody."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = structlog.get_logger(__name__)


class Guard:
    """ASGI middleware: limits the body and the number of requests, measures, and answers 500 without a word about the
    cause.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._too_large = f"the body has more than {body_bytes_max} bytes"
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._in_flight += 1
        IN_FLIGHT.set(self._in_flight)
        try:
            problem = self._refusal(scope)
            if problem is None:
                await self._app(scope, self._limited(receive), watched)
            else:
                await problem.response()(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer, and the log the cause
            _log.exception("request_failed", method=scope["method"], path=scope["path"], error=type(error).__name__)
            if status == 0:
                await defect().response()(scope, receive, watched)
        finally:
            self._in_flight -= 1
            IN_FLIGHT.set(self._in_flight)
            # Only names that we chose: a label made by the caller would grow without end.
            method = scope["method"] if scope["method"] in _METHODS else "(other)"
            route = getattr(scope.get("route"), "path", "(none)")
            SECONDS.labels(method, route, str(status)).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Problem | None:
        if self._in_flight > IN_FLIGHT_MAX:
            REFUSED.inc()
            return busy("too many requests are in flight")
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._body_bytes_max):
                return Problem(413, self._too_large)
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Count what comes, for a body that does not say its length, or lies."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._body_bytes_max:
                    raise HTTPException(413, self._too_large)  # the only kind that the framework lets pass here
            return message

        return counted
