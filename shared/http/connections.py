"""Limits on slow connections: each state of one has a time limit, and of too many the longest waiting is closed.

uvicorn limits how long a connection may idle between two requests, and nothing else: neither silence before the first
byte, nor a head or a body that comes byte by byte, nor a client that does not read its answer
(https://uvicorn.dev/settings/#timeouts). A client that holds as many connections as the process may have files blocks
the API. Each limit is for a whole state, not for pauses: a byte now and then does not extend it.

`by_httptools` and `by_h11` apply them to uvicorn's two parsers, of which the first, in C, may be missing.
"""

import asyncio
import resource
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import Counter

CLOSED = Counter(
    "exactly_once_http_connections_closed_total", "Connections that kept the API waiting, and were closed", ["reason"]
)

HEAD_SECONDS = 20.0
"""From the connection, or the first byte after an answer, to the end of a request's head. It is a packet or two; a
network that loses some of them needs seconds. Apache allows as long."""

IDLE_SECONDS = 30.0
"""Between an answer and the next request; the client must also read an answer within it."""

GRACE_SECONDS = 5.0
"""How long an abandoned answer, or a connection that is being closed, has to reach the client."""

CONNECTIONS_MAX = 1_000
"""Twice as many as may be in flight: refusals must be answered too."""

BACKLOG_MAX = 1_000
"""Connections that the kernel queues until they are accepted; asyncio accepts this many before it serves one."""


@dataclass(frozen=True)
class Limits:
    """The limits on a process's connections."""

    connections: int
    backlog: int
    work_seconds: float
    """From the end of a request's head to the end of its answer."""
    head_seconds: float = HEAD_SECONDS
    idle_seconds: float = IDLE_SECONDS


def limits(request_seconds_max: float) -> Limits:
    """Return the limits of this process. A third of the files that it may open are for connections. Twice a fifth are
    for those accepted before others were closed, which takes the loop two turns. The rest is for the database,
    libraries and the log.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = 4 * CONNECTIONS_MAX
    return Limits(
        connections=min(CONNECTIONS_MAX, files // 3),
        backlog=min(BACKLOG_MAX, files // 5),
        work_seconds=request_seconds_max + GRACE_SECONDS,
    )


class Limited(asyncio.Protocol):
    """What both kinds of a connection have: the clock of its state. A base to the left of uvicorn's own class, whose
    attributes the first ones are.
    """

    loop: asyncio.AbstractEventLoop
    transport: Any
    connections: set[Any]

    limits: Limits
    since = 0.0
    """When its current state began, by the loop's clock."""
    _state: Literal["asking", "working", "idle"] = "asking"
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request; make room for it."""
        super().connection_made(transport)
        self._enter("asking", self.limits.head_seconds)
        if len(self.connections) > self.limits.connections:
            waiting = [one for one in self.connections if isinstance(one, Limited) and one.waits_for_client()]
            min(waiting, key=lambda one: one.since).drop("crowded")

    def working_on(self) -> Any:
        """Return uvicorn's cycle of the request that is being answered, or was answered last."""
        raise NotImplementedError

    def waits_for_client(self) -> bool:
        """Return whether no work is under way for this one: its request is incomplete, or its answer is sent."""
        return self._state != "working" or self.working_on().more_body

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first ones after an answer begin another request."""
        if self._state == "idle":
            self._enter("asking", self.limits.head_seconds)
        self.take(data)

    def take(self, data: bytes) -> None:
        """Parse bytes."""
        super().data_received(data)

    def work_begins(self) -> None:
        """To be called at the end of a head, once the request before it is answered."""
        self._enter("working", self.limits.work_seconds)

    def on_response_complete(self) -> None:
        """Wait for the next request. It may have arrived already: some clients do not wait for answers."""
        self._enter("idle", self.limits.idle_seconds)
        super().on_response_complete()  # type: ignore[misc]  # uvicorn's

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock of a connection that is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def drop(self, reason: str) -> None:
        """Close without waiting: an answer that is not read would never be sent."""
        CLOSED.labels(reason).inc()
        self._stop_waiting()
        self.connections.discard(self)  # at once: several may arrive before the loop reports the loss
        self.transport.abort()

    def _enter(self, state: Literal["asking", "working", "idle"], seconds: float) -> None:
        self._stop_waiting()
        self._state = state
        self.since = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self.drop, "slow")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def limited(given: Limits) -> type[asyncio.Protocol]:
    """Return the protocol for uvicorn's `http`."""
    try:
        from .by_httptools import Connection
    except ImportError:
        from .by_h11 import Connection  # type: ignore[assignment]  # the other kind
    return type("LimitedConnection", (Connection,), {"limits": given})
