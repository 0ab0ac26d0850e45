"""Customers who come on a schedule, however slow the system is: each order is due at its moment, and its time counts
from then, also if no connection was free.

Asyncio and a few lines of HTTP/1.1: at the rates that are measured here, an HTTP library would take a quarter of the
machine.
"""

import asyncio
import random
import re
import resource
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from dev.bench.orders import order_lines

CONNECTIONS_MAX = 600
"""More than an API works on at a time (500), so that it has to refuse; a real crowd has no limit."""
FILES_SHARE = 3
"""An API accepts a third of the files that it may open as connections; one more would only be closed."""
LATE_SECONDS = 0.1
ANSWER_SECONDS_MAX = 60.0
"""Longer than an API works on a request; counts from the end of the schedule."""
LOOK_SECONDS = 0.5

ITEMS = 100
ACCOUNTS = 50

_ID = re.compile(rb'"id":\s*"([^"]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE)


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    closes: bool
    """Whether the server closes the connection after it."""


class Request(NamedTuple):
    """An order to be sent."""

    key: str
    """Its Idempotency-Key."""
    due: float
    content: bytes


def schedule(rate: float, seconds: float) -> Iterator[float]:
    """Return when each order is due, in seconds after the begin."""
    return (number / rate for number in range(round(rate * seconds)))


def parse(received: bytes) -> Answer | None:
    """Return the answer, None while it is incomplete."""
    head, gap, body = received.partition(b"\r\n\r\n")
    if not gap:
        return None
    length = _LENGTH.search(head)
    # Without a length it comes in chunks, of which an answer as short as ours has one.
    complete = len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
    return Answer(int(head[9:12]), body, bool(_CLOSES.search(head))) if complete else None


class Load:
    """One run: `run` places the orders, and the attributes tell what they were answered."""

    def __init__(
        self,
        url: str,
        rate: float,
        seconds: float,
        *,
        patient: bool = True,
        given_up: Callable[["Load"], bool] = lambda _: False,
    ) -> None:
        """`url` is that of the orders. An impatient crowd leaves at the end of the schedule if it waits for a
        connection then; `given_up` is asked now and then, and ends the run.
        """
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self.rate, self.seconds = rate, seconds
        self._patient, self._given_up = patient, given_up
        self._chance = random.Random()
        self._waiting: deque[Request] = deque()
        self._made: set[_Connection] = set()
        self._free: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = self._opening = 0
        self._connections_max = min(CONNECTIONS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FILES_SHARE)
        self.begin = 0.0
        self.due: dict[str, float] = {}
        """When the POST of each accepted order was due, by order id."""
        self.keys: dict[str, str] = {}
        """The Idempotency-Key of each accepted order."""
        self.open: dict[str, float] = {}
        """When each request without an answer was due, by Idempotency-Key."""
        self.refused: Counter[int] = Counter()
        self.unanswered: set[str] = set()
        self.unsent = self.late = 0

    def run(self) -> None:
        """Place the orders, and wait for the answers."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.begin = time.monotonic()
        look_at = self.begin + LOOK_SECONDS
        moments = list(schedule(self.rate, self.seconds))
        for number, moment in enumerate(moments):
            due = self.begin + moment
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if due > look_at:
                look_at = due + LOOK_SECONDS
                if self._given_up(self):
                    self._leave()
                    self.unsent += len(moments) - number
                    break
            request = self._request(due)
            self.open[request.key] = due
            self._waiting.append(request)
            self._dispatch()
        if not self._patient:
            self._leave()
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while self.open and time.monotonic() < deadline:
            self._dispatch()
            await asyncio.sleep(LATE_SECONDS / 10)
        self._leave()
        self.unanswered.update(self.open)
        for connection in self._made:
            connection.close()
        while self._made:
            await asyncio.sleep(0)

    def _leave(self) -> None:
        """Take back what is not sent."""
        self.unsent += len(self._waiting)
        for request in self._waiting:
            del self.open[request.key]
        self._waiting.clear()

    def _request(self, due: float) -> Request:
        lines = order_lines(self._chance, ITEMS)
        body = msgspec.json.encode({"account": f"account-{self._chance.randrange(ACCOUNTS)}", "lines": lines})
        key = str(uuid.uuid4())
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return Request(key, due, head.encode() + body)

    def _dispatch(self) -> None:
        """Send what waits, as far as connections are free; open more for the rest."""
        while self._waiting and self._free:
            self._send(self._free.pop(), self._waiting.popleft())
        while len(self._waiting) > self._opening and self._connections < self._connections_max:
            self._connections += 1
            self._opening += 1
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)  # the loop keeps no reference
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._host, self._port
            )
        except OSError:  # it accepts no more: what waits goes on waiting
            self._connections -= 1
            return
        finally:
            self._opening -= 1
        if not made.closed:
            self._made.add(made)
            self._free.append(made)
            self._dispatch()

    def _send(self, connection: "_Connection", request: Request) -> None:
        self.late += time.monotonic() > request.due + LATE_SECONDS
        connection.send(request)

    def answered(self, connection: "_Connection", request: Request, answer: Answer) -> None:
        """Note an answer; its connection is free again."""
        due = self.open.pop(request.key)
        if answer.status == 201 and (found := _ID.search(answer.body)):
            order = found[1].decode()
            self.due[order] = due
            self.keys[order] = request.key
        else:
            self.refused[answer.status] += 1
        if not answer.closes:
            self._free.append(connection)
            self._dispatch()

    def lost(self, connection: "_Connection", request: Request | None) -> None:
        """Note that a connection is gone, and perhaps a request with it."""
        self._connections -= 1
        self._made.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if request is not None and self.open.pop(request.key, None) is not None:
            self.unanswered.add(request.key)
        self._dispatch()


class _Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._request: Request | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: Request) -> None:
        assert self._transport
        self._request = request
        self._transport.write(request.content)

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = parse(self._received)
        if answer is None or self._request is None:
            return
        request, self._request, self._received = self._request, None, b""
        self._load.answered(self, request, answer)

    def close(self) -> None:
        """Close without waiting for an answer."""
        assert self._transport
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's own
        self.closed = True
        self._load.lost(self, self._request)
