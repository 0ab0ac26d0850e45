"""A client that insists: it repeats a request under the same Idempotency-Key until it gets an answer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx

# Longer than a request waits for its database, or for the concurrent one.
ANSWER_SECONDS = 10.0
# A request is given up after this: longer than any outage that chaos makes.
REQUEST_SECONDS = 90.0
# Between two attempts: doubled each time and never quite the same, so that customers who wait for an API that starts do
# not keep it from starting.
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 2.0

NOT_NOW = frozenset({500, 502, 503, 504})


class UnansweredError(Exception):
    """No answer within `REQUEST_SECONDS`: the request may have been carried out, or not."""


class Client:
    """Wraps httpx for one event loop."""

    def __init__(self, connections: int, counts: Counter[str], headers: Mapping[str, str] | None = None) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # No proxy from the environment: the servers are on this machine.
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits, headers=headers, trust_env=False)
        self._counts = counts

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, method: str, url: str, key: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Return the answer, after as many attempts as it takes. Raises `UnansweredError`."""
        deadline, pause = time.monotonic() + REQUEST_SECONDS, PAUSE_SECONDS
        while True:
            try:
                answer = await self._http.request(method, url, json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError as error:
                cause = type(error).__name__
            else:
                # 409 with Retry-After: a concurrent request with the same key is at work just now.
                if answer.status_code not in NOT_NOW and "Retry-After" not in answer.headers:
                    return answer
                cause = str(answer.status_code)
            self._counts["repeated"] += 1
            self._counts[f"repeated after {cause}"] += 1
            if time.monotonic() > deadline:
                raise UnansweredError(f"{method} {url} {key}: {cause}")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
