"""Customers come on schedule, on few connections, whatever a server does."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dev.bench import load as module
from dev.bench.load import Answer, Load, parse, schedule

BOUND_SECONDS = 20.0


def test_orders_are_due_at_equal_distances() -> None:
    assert list(schedule(4, 1.0)) == [0.0, 0.25, 0.5, 0.75]
    assert len(list(schedule(30, 60.0))) == 1_800
    assert list(schedule(10, 0.0)) == []


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 201 Created\r\nContent-Length: 5\r\n", "HTTP/1.1 201 Created\r\ncontent-length:5\r\n"]
)
def test_an_answer_is_parsed_when_it_is_whole(head: str) -> None:
    whole = f"{head}\r\nhello".encode()
    assert [parse(whole[:length]) for length in range(len(whole))] == [None] * len(whole)
    assert parse(whole) == Answer(201, b"hello", closes=False)


def test_an_answer_in_chunks_is_parsed() -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert parse(head + b"5\r\nhello\r\n") is None
    assert parse(head + b"5\r\nhello\r\n0\r\n\r\n") == Answer(503, b"5\r\nhello\r\n0\r\n\r\n", closes=True)


class Server(ThreadingHTTPServer):
    """Answers each order as it is told."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *statuses: int) -> None:
        """Answers with the `statuses` in turn, once `go` is set; 0 closes the connection instead."""
        super().__init__(("127.0.0.1", 0), Orders)
        self.statuses = itertools.cycle(statuses)
        self.numbers = itertools.count()
        self.go = threading.Event()
        self.keys: list[str] = []
        self.clients: set[object] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/orders"


class Orders(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.clients.add(self.client_address)
        self.server.keys.append(self.headers["Idempotency-Key"])
        self.server.go.wait(BOUND_SECONDS)
        if not (status := next(self.server.statuses)):
            self.close_connection = True
            return
        body = f'{{"id": "order-{next(self.server.numbers)}"}}'.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving(*statuses: int) -> Iterator[Server]:
    with Server(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go.set()
        server.shutdown()
        thread.join(BOUND_SECONDS)


def test_every_order_is_placed_once_and_its_time_counts_from_when_it_was_due() -> None:
    with serving(201) as server:
        server.go.set()
        load = Load(server.url, 50, 0.4)
        load.run()
    assert set(load.due) == {f"order-{number}" for number in range(20)}
    assert sorted(load.due.values()) == pytest.approx([load.begin + number / 50 for number in range(20)])
    assert sorted(load.keys.values()) == sorted(server.keys)
    assert [load.refused, load.unanswered, load.unsent, load.open] == [{}, set(), 0, {}]


def test_a_server_that_stalls_delays_no_order_and_gets_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 5)
    with serving(201) as server:
        load = Load(server.url, 100, 0.5)
        thread = threading.Thread(target=load.run)
        thread.start()
        deadline = time.monotonic() + BOUND_SECONDS
        while len(load.open) < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(load.open) == 50
        assert len(server.keys) == 5
        server.go.set()
        thread.join(BOUND_SECONDS)
    assert len(server.clients) == 5
    assert len(load.due) == 50
    assert load.late > 0
    assert max(load.due.values()) < load.begin + 0.5


def test_an_impatient_crowd_leaves_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 5)
    with serving(201) as server:
        load = Load(server.url, 100, 0.5, patient=False)
        thread = threading.Thread(target=load.run)
        thread.start()
        deadline = time.monotonic() + BOUND_SECONDS
        while not load.unsent and time.monotonic() < deadline:
            time.sleep(0.01)
        server.go.set()
        thread.join(BOUND_SECONDS)
    assert (len(load.due), load.unsent) == (5, 45)


def test_refusals_and_lost_answers_are_counted_apart() -> None:
    with serving(201, 429, 503, 0) as server:
        server.go.set()
        load = Load(server.url, 100, 0.4)
        load.run()
    assert len(load.due) == 10
    assert load.refused == {429: 10, 503: 10}
    assert len(load.unanswered) == 10
    assert not load.open


def test_a_run_that_is_given_up_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)
    with serving(201) as server:
        server.go.set()
        load = Load(server.url, 50, 10 * BOUND_SECONDS, given_up=lambda load: len(load.due) >= 10)
        began = time.monotonic()
        load.run()
    assert time.monotonic() - began < BOUND_SECONDS
    assert len(load.due) >= 10
    assert len(load.due) + load.unsent == 50 * 10 * BOUND_SECONDS
