"""A proxy in front of Kafka and PostgreSQL that knows what passes through it: it can lose, hold, repeat and cut off one
exact request or its reply, or end the process that sends it.

Clients of Kafka follow the addresses in its replies. They are replaced as bytes, host and port together: every version
of every reply spells them alike, so no schema is needed, and each test has its own proxy before a shared broker. An
extra listener of the broker could advertise one address only.

One thread serves all connections of one proxy, so requests to both servers have one order.
"""

import asyncio
import errno
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from dev.servers import Servers
from tests.faults.wire.kafka import KafkaTalk, spelled
from tests.faults.wire.link import Link, Stream
from tests.faults.wire.parting import Part
from tests.faults.wire.postgres import PostgresTalk
from tests.faults.wire.rules import Deed, Rule, When

HOST = "127.0.0.1"
CALL_SECONDS_MAX = 20.0
"""Bounds work on the proxy's thread, which takes milliseconds on an idle machine."""
LAST_NOTES = 60
"""Shown with a failure: about the last two cycles."""

NAME_CHARACTERS = 100

log = logging.getLogger("tests.wire")

Address = tuple[str, int]

PORTS = range(12_000, 20_000)
"""Neither a server of `dev.servers` listens at these nor one for which the kernel chooses (Linux from 32,768). A client
goes on asking for its broker where that was, and a wire there would take it for its worker.
"""
TRIES_MAX = 100
"""Ports tried; a run has a few wires at a time, and keeps some hundred ports."""

KEPT: list[socket.socket] = []
"""The ports of wires that are gone. See `keep`."""


def keep(port: int) -> None:
    """Keep the port from other wires for as long as this process lives: what a wire led to it still asks there."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # beside connections that were closed a moment ago
    kept.bind((HOST, port))
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    KEPT.append(kept)


async def serve(answering: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    """Listen at a free one of `PORTS`."""
    for port in random.sample(PORTS, TRIES_MAX):
        try:
            return await asyncio.start_server(answering, HOST, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError(f"{TRIES_MAX} ports are taken")


class Note(NamedTuple):
    """One request, and its fate."""

    seconds: float
    """By the monotonic clock."""
    connection: int
    request: Part
    deed: Deed

    def __str__(self) -> str:
        return f"{self.seconds:.3f} #{self.connection} {self.request.name[:NAME_CHARACTERS]}: {self.deed.value}"


class Wire:
    """A proxy for the workers of one test. `settings()` are what a worker needs to go through it."""

    def __init__(self, kafka: Address, postgres: Address) -> None:
        self._there = {"kafka": kafka, "postgres": postgres}
        self._here: dict[str, Address] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._count = 0
        self._rules: list[Rule] = []
        self._errors: list[Exception] = []
        self.dark = False
        """Whether everything is lost, both ways."""
        self.notes: list[Note] = []
        """All requests, in their order."""
        self.refused: list[str] = []
        """Why connections were closed: their data was not in the protocol."""

    @classmethod
    def before(cls, servers: Servers) -> Self:
        """Make one in front of `servers`."""
        host, port = servers.kafka.bootstrap.split(":")
        database = urlsplit(servers.postgres.dsn())
        assert database.hostname
        assert database.port
        return cls((host, int(port)), (database.hostname, database.port))

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        for _, port in self._here.values():
            keep(port)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS_MAX)
        self._loop.close()
        if error is not None:
            error.add_note(self.told())
        elif self._errors:
            raise self._errors[0]

    def address(self, server: str) -> str:
        """Return host:port of the proxy before `kafka` or `postgres`."""
        return "{}:{}".format(*self._here[server])

    def dsn(self, there: str) -> str:
        """Return the libpq URL that leads through the proxy to where `there` leads."""
        server = "@{}:{}/".format(*self._there["postgres"])
        assert server in there
        return there.replace(server, f"@{self.address('postgres')}/") + "?sslmode=disable&gssencmode=disable"

    def settings(self, dsn: str) -> dict[str, object]:
        """Return the settings that lead a worker through the proxy to the database of `dsn`."""
        return {"kafka_bootstrap_servers": self.address("kafka"), "database_url": SecretStr(self.dsn(dsn))}

    def on(
        self,
        when: When,
        deed: Deed,
        *,
        nth: int = 1,
        hold_seconds: float | None = None,
        call: Callable[[], object] | None = None,
    ) -> Rule:
        """From now on, do `deed` with the n-th request for which `when` holds.

        `hold_seconds` bounds a hold. `call` is called on the proxy's thread, when it is done; a request that is
        delivered has been written to the server then. It may give further rules.
        """
        rule = Rule(self._loop, when, deed, nth=nth, hold_seconds=hold_seconds, call=call)
        self._rules.append(rule)
        return rule

    def told(self) -> str:
        """Describe the last requests."""
        return "\n".join(
            ["The last requests:", *map(str, self.notes[-LAST_NOTES:]), *self.refused, *map(repr, self._errors)]
        )

    def seen(self) -> Counter[str]:
        """Return how often each request came."""
        return Counter(note.request.name for note in self.notes)

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._links)

    def blackhole(self) -> None:
        """From now on lose everything both ways; no connection is closed. A rule may call it."""
        self.dark = True

    def heal(self) -> None:
        """Let new connections pass again, and close those that have lost something."""

        async def cut() -> None:
            self.dark = False
            for link in self._links:
                if link.dark:
                    link.cut()

        self._call(cut())

    # What a link asks for.

    def meet(self, request: Part) -> Rule | None:
        met = [rule for rule in tuple(self._rules) if rule.meets(request)]
        return met[0] if met else None

    def note(self, link: Link, request: Part, deed: Deed) -> None:
        self.notes.append(Note(time.monotonic(), link.number, request, deed))

    def refuse(self, link: Link, why: str) -> None:
        self.refused.append(f"connection {link.number} is closed: {why}")
        log.warning(self.refused[-1])

    def fail(self, error: Exception) -> None:
        self._errors.append(error)

    # On the proxy's thread.

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS_MAX)

    async def _open(self) -> None:
        for name, there in self._there.items():
            server = await serve(self._answering(name, there))
            self._servers.append(server)
            self._here[name] = HOST, server.sockets[0].getsockname()[1]

    def _answering(
        self, name: str, there: Address
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._serving.add(task)
            try:
                await self._serve(name, there, (reader, writer))
            except (OSError, asyncio.CancelledError):
                pass  # the server is away, or the test is over: asyncio would warn about it
            finally:
                writer.close()
                self._serving.discard(task)

        return answer

    async def _serve(self, name: str, there: Address, client: Stream) -> None:
        server = await asyncio.open_connection(*there)
        self._count += 1
        talk = KafkaTalk({spelled(*there): spelled(*self._here[name])}) if name == "kafka" else PostgresTalk()
        link = Link(self._count, self, talk, client, server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
