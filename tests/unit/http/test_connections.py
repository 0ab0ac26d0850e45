"""Clients that send nothing or slowly, or do not read, do not keep an API from answering others."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from dev import processes
from dev.servers.places import free_port
from shared.testing import until

FILES = 256
"""The default of shells on macOS and of some service managers."""


class Lonely:
    """A process that serves without a database."""

    def __init__(self, port: int, pid: int, log: Path) -> None:
        self.port = port
        self.log = log
        self._process = psutil.Process(pid)
        until(self.answers, "it answers")

    def answers(self) -> bool:
        """Return whether an answer comes on a new connection."""
        try:
            with self.connect() as one:
                one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return one.recv(12) == b"HTTP/1.1 200"
        except OSError:
            return False

    def connect(self) -> socket.socket:
        """Open a connection, and send nothing."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def connections(self) -> int:
        """Count what it holds open besides its listening socket."""
        return len([one for one in self._process.net_connections() if one.status != psutil.CONN_LISTEN])


@contextmanager
def lonely(log: Path, *more: str) -> Iterator[Lonely]:
    port = free_port()
    command = [sys.executable, "-m", "tests.unit.http.lonely_api", str(port), str(FILES), *more]
    with log.open("wb") as output:
        process = processes.start(command, output=output)
    try:
        yield Lonely(port, process.pid, log)
    finally:
        processes.end([process], 5.0)


KINDS = pytest.mark.parametrize("kind", ["in-c", "pure"])
"""The parser and the loop, which are in C where they can be had."""


@pytest.fixture(scope="module", params=["in-c", "pure"])
def quick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lonely]:
    with lonely(tmp_path_factory.mktemp("quick") / "log", "quick", request.param) as found:
        yield found


@KINDS
def test_more_silent_connections_than_files(tmp_path: Path, kind: str) -> None:
    """They are closed to make room, the oldest first, but not one at work: an answer read slowly."""
    with lonely(tmp_path / "log", kind) as api, api.connect() as reader, ExitStack() as stack:
        reader.sendall(b"GET /pieces HTTP/1.0\r\n\r\n")
        assert reader.recv(12) == b"HTTP/1.1 200"
        for _ in range(FILES + 50):
            stack.enter_context(api.connect())

        assert all(api.answers() for _ in range(20))

        assert api.connections() < FILES
        assert "out of system resource" not in api.log.read_text()
        read = 0
        while got := reader.recv(1_000_000):
            read += len(got)
        assert read > 20_000_000


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="silent"),
        pytest.param(b"", b"\r\n", id="empty-lines"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"", id="head-unfinished"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X-A: 1\r\n", id="head-drips"),
        pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n", b"", id="body-missing"),
        pytest.param(HEAD + b"Content-Length: 1000\r\n\r\n", b"x", id="body-drips"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="chunks-drip"),
        pytest.param(HEAD + b"Content-Length: 100000000\r\n\r\n", b"x", id="refused-body-drips"),
        pytest.param(GET, b"", id="keep-alive-idle"),
        pytest.param(GET, b"X", id="next-head-drips"),
        pytest.param(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", b"", id="answer-unread"),
        pytest.param(b"GET /pieces HTTP/1.1\r\nHost: x\r\n\r\n", b"", id="pieces-unread"),
        pytest.param(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" + GET * 100, GET, id="answers-unread"),
    ],
)
def test_who_is_slow_is_closed(quick: Lonely, first: bytes, then: bytes) -> None:
    """The limit is for the whole, not for a pause between bytes."""
    until(lambda: quick.connections() == 0, "those of the test before are closed")
    with quick.connect() as slow:
        slow.sendall(first)
        slow.settimeout(0.05)

        def closed() -> bool:
            with suppress(OSError):  # it is closed, or takes no more
                slow.sendall(then)
            assert quick.answers()
            return quick.connections() == 0

        until(closed, "it is closed")
