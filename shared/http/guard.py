"""The outermost layer of the HTTP API: it limits requests, measures them, and reports their failures."""

import asyncio
import time

import structlog
from anyio import CancelScope
from prometheus_client import Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem, busy, defect, repeat, shortened

SECONDS = Histogram("exactly_once_http_request_seconds", "Time to answer", ["method", "route", "status"])
IN_FLIGHT = Gauge("exactly_once_http_requests_in_flight", "Requests that wait or are in progress")
REFUSED = Counter("exactly_once_http_requests_refused_total", "Requests refused because too many were in flight")

IN_FLIGHT_MAX = 500
"""Each waits for a thread and may hold a body; beyond this, waiting is useless."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = structlog.get_logger(__name__)


class Guard:
    """ASGI middleware: limits request size, duration and number, records metrics, and hides internal errors behind a
    plain 500.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int, seconds_max: float) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._seconds_max = seconds_max
        self._late: set[asyncio.Task[None]] = set()
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = _Request(receive, send, self._body_bytes_max)
        self._count(1)
        problem = self._refusal(scope)
        cancel = CancelScope()
        work = asyncio.ensure_future(self._work(scope, request, problem, cancel))
        try:
            await asyncio.wait({work}, timeout=self._seconds_max)
            if not work.done():
                await request.give_up(scope)
        finally:
            # A request that waits for a thread is cancelled. One in a thread runs to its end: database statements have
            # their own timeout, and the caller was told that the outcome is unknown. A scope makes this difference.
            # Cancelling the task itself would free the thread's place while the thread runs on: an unbounded number of
            # threads would wait for a stalled database, and the loop would compete with them.
            if work.done():
                self._ended(work)
            else:
                cancel.cancel()
                self._late.add(work)
                work.add_done_callback(self._ended)
        if work.done() and not work.cancelled() and (error := work.exception()):
            _log.error(
                "request_failed",
                method=scope["method"],
                path=shortened(scope["path"]),
                error=type(error).__name__,
                exc_info=error,
            )
            if request.status == 0:
                await request.answer(scope, defect())
        # Only known names: a label chosen by callers would grow without bound.
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        route = getattr(scope.get("route"), "path", "(none)")
        SECONDS.labels(method, route, str(request.status)).observe(time.perf_counter() - started)

    async def _work(self, scope: Scope, request: "_Request", problem: Problem | None, cancel: CancelScope) -> None:
        with cancel:
            if problem is None:
                await self._app(scope, request.receive, request.send)
            else:
                await request.answer(scope, problem)

    def _count(self, more: int) -> None:
        self._in_flight += more
        IN_FLIGHT.set(self._in_flight)

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._count(-1)
        if work in self._late:
            self._late.discard(work)
            if not work.cancelled() and (error := work.exception()):
                _log.error("late_request_failed", error=type(error).__name__, exc_info=error)

    def _refusal(self, scope: Scope) -> Problem | None:
        if self._in_flight > IN_FLIGHT_MAX:
            REFUSED.inc()
            return busy("too many requests are in flight")
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._body_bytes_max):
                return Problem(413, _too_large(self._body_bytes_max))
        return None


class _Request:
    """One request under way: counts incoming bytes, and sends nothing after it was given up."""

    def __init__(self, receive: Receive, send: Send, body_bytes_max: int) -> None:
        self._receive = receive
        self._send = send
        self._body_bytes_max = body_bytes_max
        self._received = 0
        self._waits_for_body = False
        self._given_up = False
        self.status = 0
        """The answer's; 0 while there is none."""

    async def receive(self) -> Message:
        """Count bytes, for a body with no length or a false one."""
        self._waits_for_body = True
        message = await self._receive()
        self._waits_for_body = False
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._body_bytes_max:
                # The only kind that the framework passes on here.
                raise HTTPException(413, _too_large(self._body_bytes_max))
        return message

    async def send(self, message: Message) -> None:
        """Send, unless the caller was already answered."""
        if self._given_up:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def answer(self, scope: Scope, problem: Problem) -> None:
        """Refuse the request."""
        await problem.response()(scope, self._receive, self.send)

    async def give_up(self, scope: Scope) -> None:
        """Answer in place of slow work. An answer that has begun just ends."""
        self._given_up = True
        if self.status == 0:
            problem = _TOO_SLOW if self._waits_for_body else busy(f"this took too long; {repeat(scope['method'])}")
            self.status = problem.answer.status
            await problem.response()(scope, self._receive, self._send)


_TOO_SLOW = Problem(408, "the body took too long to arrive", headers={"Connection": "close"})


def _too_large(bytes_max: int) -> str:
    return f"the body has more than {bytes_max} bytes"
