"""Places: the right to run. Requests that wait for one locked row occupy places, and must not occupy them all.

An endpoint runs in a thread with a connection, and both are few. Requests that wait for a locked row would take them
one after another, until no request at all is answered. So some places are reserved for reads, and
requests for one resource may take only some of the others: those that wait for a row are mostly those that name it.
The rest wait here, which costs nothing; too many are refused at once.
"""

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from prometheus_client import Counter

from .problems import busy

CROWDED = Counter(
    "exactly_once_http_requests_crowded_total", "Requests refused because too many waited for the same resource"
)

FOR_READERS = 2
"""Places reserved for requests that change nothing."""

WAITING_MAX = 100
"""Requests for one resource that wait or run, a fifth of all that an API holds at once."""


class Places:
    """Shares out the places of one API process. Used only on the event loop."""

    def __init__(self, places: int) -> None:
        """`places` is the number of requests that can run at once."""
        self._writers = Semaphore(max(1, places - FOR_READERS))
        self._each = max(1, places // 3)
        self._resources: dict[str, tuple[Semaphore, int]] = {}
        """By requested resource: its places, and how many requests want one."""

    @asynccontextmanager
    async def take(self, resource: str) -> AsyncIterator[None]:
        """Wait for a place for a change of `resource`, and hold it. Raises `Problem` 503 if too many wait."""
        places, wanted = self._resources.get(resource) or (Semaphore(self._each), 0)
        if wanted >= WAITING_MAX:
            CROWDED.inc()
            raise busy("too many requests wait for this already; nothing was done, a POST may be repeated with its key")
        self._resources[resource] = places, wanted + 1
        try:
            # Not anyio's limiter, which costs ten times as much, and a turn of the loop even where a place is free.
            async with places, self._writers:
                yield
        finally:
            _, wanted = self._resources.pop(resource)
            if wanted > 1:
                self._resources[resource] = places, wanted - 1


def resource(request: Request) -> str:
    """Return the resource of a request: its path up to the first name, so that `/accounts/ada/deposits` is about
    `/accounts/ada`. For a path without a name, such as a collection's, its Idempotency-Key stands in.
    """
    route: str = request.scope["route"].path_format
    head, brace, _ = route.partition("{")
    if not brace:
        return f"{route} {request.headers.get('idempotency-key', '')}"
    path: str = request.scope["path"]
    name, _, _ = path[len(head) :].partition("/")
    return f"{head}{name}"
