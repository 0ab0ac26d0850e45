"""What is read from a connection: the same with both parsers, that in C and that in Python."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import pytest

from tests.unit.http.test_connections import Lonely, lonely

JSON = b"Host: x\r\nContent-Type: application/json\r\n"
POST = b"POST / HTTP/1.1\r\n" + JSON
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module", params=["in-c", "pure"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lonely]:
    with lonely(tmp_path_factory.mktemp("requests") / "log", request.param) as found:
        yield found


def ask(api: Lonely, *pieces: bytes) -> list[str]:
    """Send `pieces`; return the status and the body of each answer until the connection is closed."""
    with api.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):  # it is closed before all is sent
            for piece in pieces:
                connection.sendall(piece)
        with connection.makefile("rb") as read:
            return list(answers(read))


def answers(read: BinaryIO) -> Iterator[str]:
    """Yield the status and the body of each answer. A refusal is the last; each parser frames its body as it likes."""
    while line := read.readline():
        status, length = line.split()[1].decode(), 0
        while header := read.readline().strip().lower():
            if header.startswith(b"content-length:"):
                length = int(header.partition(b":")[2])
        if status == "400":
            yield status
            return
        yield f"{status} {read.read(length).decode()}".strip()


INVALID = "400"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"what is this\r\n\r\n", id="no-http"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", id="two-hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", id="name-with-space"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", id="nul"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="path-not-ascii"),
        pytest.param(POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n123", id="two-lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="negative-length"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="other-encoding"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", id="no-chunk"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4_000, id="endless-head"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000, id="endless-header"),
        pytest.param(b"GET /" + b"b" * 20_000, id="endless-path"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", id="endless-trailers"),
    ],
)
def test_what_is_not_valid_is_refused(api: Lonely, request_: bytes, request: pytest.FixtureRequest) -> None:
    more = [b"A: b\r\n" * 50_000] * 2 if request.node.callspec.id.endswith("endless-trailers") else []
    assert ask(api, request_, *more) == [INVALID]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_a_proposal_to_change_the_protocol_loses_no_body(api: Lonely, protocol: bytes) -> None:
    """Nor is the body taken for a request."""
    proposal = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: AAM\r\n"
    size = b"Content-Length: %d\r\n\r\n" % len(GET)
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GET), GET)
    assert ask(api, proposal + size, GET, LAST) == [f"200 {len(GET)}", '200 "here"']
    assert ask(api, (proposal + size + GET) * 2 + LAST) == [f"200 {len(GET)}"] * 2 + ['200 "here"']
    assert ask(api, proposal + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + LAST) == [
        f"200 {len(GET)}",
        '200 "here"',
    ]
    without_body = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    assert ask(api, without_body + LAST) == ['200 "here"'] * 2


def test_who_asks_whether_to_send_the_body_is_told_to(api: Lonely) -> None:
    expecting = POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with api.connect() as connection, connection.makefile("rb") as read:
        connection.sendall(expecting)
        found = answers(read)
        assert next(found) == "100"
        connection.sendall(b"12345")
        assert list(found) == ["200 5"]


def test_headers_behind_a_body_are_none_of_the_request(api: Lonely) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nExpect: nothing\r\n\r\n"
    assert ask(api, chunked + LAST) == ["200 2", '200 "here"']


def test_requests_that_do_not_wait_for_answers_get_them_in_their_order(api: Lonely) -> None:
    five = POST + b"Content-Length: 5\r\n\r\n12345"
    assert ask(api, five + GET + five, LAST) == ["200 5", '200 "here"', "200 5", '200 "here"']


def test_what_is_invalid_behind_a_request_is_refused_after_its_answer(api: Lonely) -> None:
    """A refusal in front of it would be taken for the answer to what was done."""
    five = POST + b"Content-Length: 5\r\n\r\n12345"
    assert ask(api, five + b"what is this\r\n\r\n") == ["200 5", INVALID]
    assert ask(api, five + GET + b"GET / HTTP/1.1\r\n\r\n") == ["200 5", '200 "here"', INVALID]
    assert ask(api, five + POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n")[0] == "200 5"


@pytest.mark.parametrize("api", ["in-c"], indirect=True)
def test_more_requests_than_are_queued_are_refused_after_the_answers(api: Lonely) -> None:
    assert ask(api, GET * 150) == ['200 "here"'] * 101 + [INVALID]


@pytest.mark.parametrize("api", ["in-c"], indirect=True)
@pytest.mark.parametrize("start", [b"PRI * HTTP/2.0", b"GET / HTTP/2.0", b"CONNECT x:1 HTTP/1.1"])
def test_another_protocol_is_refused(api: Lonely, start: bytes) -> None:
    assert ask(api, start + b"\r\nHost: x\r\n\r\n") == [INVALID]
