"""Places at work: whoever waits for a locked row takes one, and must not take them all.

An endpoint works in a thread with a connection, and there are few of both. A row that somebody has locked would take
them one after another, and then nobody is answered, whatever he asks for. So what changes something may take all
places but some, which are left to those who only read; and requests for one resource may take some and no more: what
one row makes wait is mostly what names it. The others wait here, which costs nothing, and if they are many they are
refused at once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import Request
from prometheus_client import Counter

from .problems import busy

CROWDED = Counter(
    "exactly_once_http_requests_crowded_total", "Requests refused because too many waited for the same resource"
)

FOR_READERS = 2
"""Places that only those take who change nothing."""

WAITING_MAX = 100
"""Requests for one resource that wait or are at work, a fifth of all that an API holds at the same time."""


class Places:
    """Shares the places of one API process. Used on the event loop alone."""

    def __init__(self, places: int) -> None:
        """`places` is the number of requests that can be at work."""
        self._writers = CapacityLimiter(max(1, places - FOR_READERS))
        self._each = max(1, places // 3)
        self._resources: dict[str, tuple[CapacityLimiter, int]] = {}
        """Of each resource: its places, and how many want one; those alone that somebody wants."""

    @asynccontextmanager
    async def take(self, resource: str) -> AsyncIterator[None]:
        """Hold a place for a change of `resource`; wait for it. Raises `Problem` 503 if many wait already."""
        limiter, wanted = self._resources.get(resource) or (CapacityLimiter(self._each), 0)
        if wanted >= WAITING_MAX:
            CROWDED.inc()
            raise busy("too many requests for this wait already; nothing was done, a POST may be repeated with its key")
        self._resources[resource] = limiter, wanted + 1
        try:
            async with limiter, self._writers:
                yield
        finally:
            _, wanted = self._resources.pop(resource)
            if wanted > 1:
                self._resources[resource] = limiter, wanted - 1


def resource(request: Request) -> str:
    """Name what a request is about: its path up to the first name in it, so that `/accounts/ada/deposits` is about
    `/accounts/ada`; and where a path has no name, as that of a collection, what its Idempotency-Key stands for.
    """
    route: str = request.scope["route"].path_format
    head, brace, _ = route.partition("{")
    if not brace:
        return f"{route} {request.headers.get('idempotency-key', '')}"
    name, _, _ = request.url.path[len(head) :].partition("/")
    return f"{head}{name}"
