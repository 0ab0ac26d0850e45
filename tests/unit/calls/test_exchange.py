"""Whatever a third party does with a connection, an attempt ends in time, with an answer or with a reason why not. The
servers are sockets on loopback.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared.calls import Answer, Destination, Request
from shared.calls.declaration import AnswerUnreadable, RequestRefused
from shared.calls.exchange import Exchange, refuse_wrong_settings
from shared.calls.queue import Due
from shared.calls.settling import NoAnswer
from shared.errors import Misconfigured

CALL_ID = "payment:order.events-0.0.7.Capture.0"
TRACE = "00-aa-bb-01"
DUE = Due(
    id=1,
    destination="bank",
    key="o-1",
    call_id=CALL_ID,
    call_type="Capture",
    call_version=1,
    data=b"{}",
    traceparent=f"{TRACE}\ntracestate: vendor=1\nbaggage: tenant=eu-7",
    attempts=1,
    lease=1,
    maybe_done=False,
    stuck=False,
    expired=False,
    failure=None,
)
ASKED = Request("POST", "/captures?of=today", json={"amount": 7}, headers={"X-Shop": "north"})
PORTION = b"x" * 65_536

Serve = Callable[[socket.socket, bytes], None]


@contextmanager
def listening(serve: Serve, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve each connection on loopback: `serve` is given it, and the head of the request with what came along."""

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        wrapped = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) if context else None
        with suppress(OSError), wrapped or connection as talking:
            if wrapped:
                wrapped.do_handshake()
            head = b""
            while b"\r\n\r\n" not in head and (more := talking.recv(65_536)):
                head += more
            serve(talking, head)
            talking.shutdown(socket.SHUT_WR)
            while talking.recv(65_536):  # what is left unread would make the end a reset, which may overtake the answer
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"{'https' if context else 'http'}://localhost:{server.getsockname()[1]}/v1/"
        server.shutdown(socket.SHUT_RDWR)


def ask(url: str, request: Request = ASKED, **limits: Any) -> Answer:
    destination = Destination("bank", url=lambda _: url, headers=lambda _: {"Authorization": "Bearer s3cret"}, **limits)

    async def once() -> Answer:
        exchange = Exchange(destination, None)
        try:
            return await exchange.ask(DUE, request)
        finally:
            await exchange.close()

    return asyncio.run(once())


def test_the_request_carries_the_key_the_trace_and_the_secret() -> None:
    heads = []

    def book(connection: socket.socket, head: bytes) -> None:
        heads.append(head.decode())
        connection.sendall(b'HTTP/1.1 201 Created\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 12\r\n\r\n{"id": "b1"}')

    with listening(book) as url:
        answer = ask(url)

    assert (answer.status, answer.meaning, answer.json(), answer.cut) == (201, "done", {"id": "b1"}, False)
    assert answer.headers["x-a"] == "1, 2"
    first, *lines = heads[0].partition("\r\n\r\n")[0].split("\r\n")
    assert first == "POST /v1/captures?of=today HTTP/1.1"
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert found["idempotency-key"] == CALL_ID
    assert (found["traceparent"], found["tracestate"]) == (TRACE, "vendor=1")
    assert "baggage" not in found
    assert found["authorization"] == "Bearer s3cret"
    assert found["x-shop"] == "north"
    assert found["content-type"] == "application/json"
    assert found["accept-encoding"] == "identity"


def test_baggage_is_sent_only_if_the_request_itself_says_so() -> None:
    assert Request("POST", "/", headers={"baggage": "tenant=7"}).headers == {"baggage": "tenant=7"}
    with pytest.raises(RequestRefused, match="'Tracestate' is not a header that a request sets"):
        Request("POST", "/", headers={"Tracestate": "a=1"})


def test_of_an_answer_of_100_megabytes_only_the_beginning_is_read() -> None:
    sent = []

    def flood(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1_600):
            sent.append(connection.send(PORTION))

    with listening(flood) as url:
        answer = ask(url, answer_bytes_max=1_000)

    assert (answer.status, answer.meaning, len(answer.body), answer.cut) == (200, "done", 1_000, True)
    assert sum(sent) < 20_000_000
    with pytest.raises(AnswerUnreadable, match="longer than the 1000 bytes"):
        answer.json()


def drip(connection: socket.socket, _: bytes) -> None:
    while True:  # until it is disconnected
        connection.sendall(b"X")
        time.sleep(0.02)


def drip_a_head(connection: socket.socket, head: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    drip(connection, head)


def drip_a_body(connection: socket.socket, head: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    drip(connection, head)


def say_nothing(connection: socket.socket, _: bytes) -> None:
    while connection.recv(1_000):  # until it is disconnected
        pass


def never_close(connection: socket.socket, head: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nwithout an end")
    say_nothing(connection, head)


@pytest.mark.parametrize("serve", [drip_a_head, drip_a_body, never_close, say_nothing])
def test_a_destination_that_drips_or_never_ends_has_its_time(serve: Serve) -> None:
    with listening(serve) as url, pytest.raises(NoAnswer, match=r"no whole answer within 0\.2 s") as failure:
        ask(url, seconds=0.2)
    assert failure.value.sent


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "half a body", "no chunk", "another protocol", "an endless head"],
)
def test_a_connection_that_is_cut_or_makes_no_sense_may_have_done_it(said: bytes) -> None:
    def cut(connection: socket.socket, _: bytes) -> None:
        connection.sendall(said)

    with listening(cut) as url, pytest.raises(NoAnswer) as failure:
        ask(url)
    assert failure.value.sent
    assert failure.value.why


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    asked = []

    def elsewhere(connection: socket.socket, head: bytes) -> None:
        asked.append(head)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /v1/other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    with listening(elsewhere) as url:
        answer = ask(url)

    assert (answer.status, answer.meaning, len(asked)) == (302, "never", 1)


@pytest.mark.parametrize("place", ["mailto:x", "https:other", "http://[", "\x7f", "x" * 70_000])
def test_a_redirect_to_nowhere_is_the_same_answer(place: str) -> None:
    def elsewhere(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + place.encode() + b"\r\n\r\n")

    with listening(elsewhere) as url:
        answer = ask(url)
    assert (answer.status, answer.meaning, answer.headers["location"]) == (302, "never", place)


def test_a_destination_that_is_not_there_has_not_done_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NoAnswer, match="Cannot connect to host") as failure:
        ask(f"http://127.0.0.1:{port}")
    assert not failure.value.sent


def test_a_wrong_certificate_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    heads = []

    def book(connection: socket.socket, head: bytes) -> None:
        heads.append(head)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def context(issuer: trustme.CA, name: str) -> ssl.SSLContext:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer.issue_cert(name).configure_cert(made)
        return made

    trusting: Any = {"ca": lambda _: tmp_path / "ca.pem"}
    for wrong in (context(theirs, "localhost"), context(ours, "elsewhere.example")):
        with listening(book, wrong) as url, pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED") as failure:
            ask(url, **trusting)
        assert not failure.value.sent
    assert heads == []

    with listening(book, context(ours, "localhost")) as url:
        assert ask(url, **trusting).meaning == "done"


def test_an_encryption_that_breaks_after_the_request_may_have_done_it(tmp_path: Path) -> None:
    ours = trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.issue_cert("localhost").configure_cert(context)

    def break_off(connection: socket.socket, _: bytes) -> None:
        plain = socket.socket(fileno=connection.detach())  # what follows is not encrypted
        with plain:
            plain.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65_536):  # as `listening` does, which does not know this socket
                pass

    with listening(break_off, context) as url, pytest.raises(NoAnswer, match="SSL: WRONG_VERSION") as failure:
        ask(url, ca=lambda _: tmp_path / "ca.pem")
    assert failure.value.sent


@pytest.mark.parametrize(
    "made",
    [
        lambda: Request("PO ST", "/"),
        lambda: Request("POST", "captures"),
        lambda: Request("POST", "/a b"),
        lambda: Request("POST", "/\r\nX: y"),
        lambda: Request("POST", "/", json={}, content=b""),
        lambda: Request("POST", "/", headers={"Idempotency-Key": "mine"}),
        lambda: Request("POST", "/", headers={"X": "a\r\nY: b"}),
        lambda: Request("POST", "/", headers={"X: y": "a"}),
        lambda: Request("POST", "/", content=iter([b"a"])),  # type: ignore[arg-type]
    ],
    ids=range(9),
)
def test_a_request_that_cannot_be_sent_is_refused(made: Callable[[], Request]) -> None:
    with pytest.raises(RequestRefused):
        made()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": lambda _: "bank.example"}, "not of the form https://host/path"),
        ({"url": lambda _: "https://me:word@bank.example"}, "no password"),
        ({"url": lambda _: "https://bank.example:99999"}, "cannot be read: Port out of range"),
        ({"url": lambda _: "https://bank.example:0"}, "no port 0"),
        ({"url": lambda _: "https://xn--a"}, "cannot be read"),
        ({"url": lambda settings: settings.bank}, "cannot be had from the settings"),
        ({"url": lambda _: "https://b", "headers": lambda _: {"Authorization": "a\nb"}}, "header Authorization"),
        ({"url": lambda _: "https://b", "ca": lambda _: Path("/nowhere.pem")}, "authorities in /nowhere.pem"),
    ],
)
def test_wrong_settings_stop_the_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        refuse_wrong_settings(Destination("bank", **given), object())


@pytest.mark.parametrize(
    "host", ["[::1]:8080", "10.0.0.1", "my_bank:80", "b\u00fccher.example", "xn--bcher-kva.example"]
)
def test_any_host_may_be_named(host: str) -> None:
    refuse_wrong_settings(Destination("bank", url=lambda _: f"http://{host}/v1"), object())


def test_a_connection_is_used_again_unless_its_answer_was_cut_short() -> None:
    connections = []

    def serve(connection: socket.socket, head: bytes) -> None:
        connections.append(connection)
        size = 1_000_000 if b"large" in head else 2
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        while head := connection.recv(65_536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")

    async def story(url: str) -> None:
        exchange = Exchange(Destination("bank", url=lambda _: url, answer_bytes_max=1_000), None)
        for path in ("/a", "/b"):
            assert (await exchange.ask(DUE, Request("GET", path))).status == 200
        assert len(connections) == 1
        connections.clear()
        other = Exchange(Destination("bank", url=lambda _: url, answer_bytes_max=1_000), None)
        assert (await other.ask(DUE, Request("GET", "/large"))).cut
        assert not (await other.ask(DUE, Request("GET", "/b"))).cut
        assert len(connections) == 2
        await exchange.close()
        await other.close()

    with listening(serve) as url:
        asyncio.run(story(url))


def test_what_nobody_has_asked_for_is_no_answer_to_the_next_request() -> None:
    said = threading.Event()

    def answer(body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body

    def talk(connection: socket.socket, head: bytes) -> None:
        while head:
            connection.sendall(answer(head.split(b" ")[1][-2:]))
            if b"/a1" in head:
                connection.sendall(answer(b"XX"))
                said.set()
            head = connection.recv(65_536)

    async def story(url: str) -> None:
        exchange = Exchange(Destination("bank", url=lambda _: url), None)
        try:
            for place in ("/a1", "/a2", "/a3"):
                assert (await exchange.ask(DUE, Request("GET", place))).body == place[-2:].encode()
                assert await asyncio.to_thread(said.wait, 10)
        finally:
            await exchange.close()

    with listening(talk) as url:
        asyncio.run(story(url))


def test_a_request_that_is_repeated_by_the_client_may_have_been_done() -> None:
    """Aiohttp repeats a PUT whose kept connection ends; what comes of the second one says nothing of the first."""
    puts = []

    def talk(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        puts.append(connection.recv(65_536))
        server.close()  # it is done, and the process ends

    async def story(server: socket.socket) -> None:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        exchange = Exchange(Destination("bank", url=lambda _: url), None)
        try:
            await exchange.ask(DUE, Request("GET", "/"))
            with pytest.raises(NoAnswer) as failure:
                await exchange.ask(DUE, Request("PUT", "/captures", json={}))
        finally:
            await exchange.close()
        assert puts[0].startswith(b"PUT /captures")
        assert failure.value.sent

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            talk(connection, connection.recv(65_536))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        asyncio.run(story(server))
        thread.join(10)


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
def test_the_service_may_say_of_what_type_its_json_is(name: str) -> None:
    heads = []

    def book(connection: socket.socket, head: bytes) -> None:
        heads.append(head.decode().lower())
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with listening(book) as url:
        ask(url, Request("POST", "/", json={}, headers={name: "application/vnd.api+json"}))
    assert heads[0].count("content-type") == 1
    assert "content-type: application/vnd.api+json" in heads[0]


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        *((status, "done") for status in (200, 204)),
        *((status, "never") for status in (301, 400, 404, 422)),
        *((status, "again") for status in (408, 409, 425, 429, 500, 503)),
    ],
)
def test_what_a_status_means(status: int, meaning: str) -> None:
    assert Answer(status, {}, b"").meaning == meaning


def test_retry_after_is_a_number_of_seconds() -> None:
    assert Answer(503, {"retry-after": "7"}, b"").retry_after == 7
    for other in ({}, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {"retry-after": "-1"}):
        assert Answer(503, other, b"").retry_after == 0
