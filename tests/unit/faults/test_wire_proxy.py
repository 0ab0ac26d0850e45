"""Each of the proxy's deeds, as a client and an echoing server in Kafka's framing see it."""

import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from shared.testing import until
from tests.faults.wire import Deed, Wire, any_request, api
from tests.unit.faults.test_wire_frames import frame, reply, string

PATIENCE_SECONDS = 10.0
NOTHING_SECONDS = 0.1
"""How long to wait for what must not come."""
PRODUCE, FETCH, HEARTBEAT = 0, 1, 12


class Server:
    """Answers each request with its own body, and notes what it got."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.left = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            while head := client.recv(4, socket.MSG_WAITALL):
                inside = client.recv(int.from_bytes(head), socket.MSG_WAITALL)
                correlation = int.from_bytes(inside[4:8])
                self.got.append(correlation)
                client.sendall(reply(correlation, inside[8:]))
        self.left.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


class Client:
    """A client of the proxy."""

    def __init__(self, wire: Wire) -> None:
        host, port = wire.address("kafka").split(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE_SECONDS)

    def send(self, correlation: int, key: int = FETCH) -> None:
        self.socket.sendall(frame(key, 0, correlation=correlation))

    def get(self, seconds: float = PATIENCE_SECONDS) -> int | None:
        """Return the next request answered; 0 if the connection was closed, None if nothing comes."""
        self.socket.settimeout(seconds)
        try:
            head = self.socket.recv(4, socket.MSG_WAITALL)
            return int.from_bytes(self.socket.recv(int.from_bytes(head), socket.MSG_WAITALL)[:4]) if head else 0
        except TimeoutError:
            return None
        except ConnectionError:
            return 0


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.address, server.address) as wire:
        yield wire


@pytest.fixture
def client(wire: Wire) -> Iterator[Client]:
    made = Client(wire)
    with made.socket:
        yield made


def test_what_meets_no_rule_passes(server: Server, wire: Wire, client: Client) -> None:
    for n in (1, 2, 3):
        client.send(n)
    assert [client.get() for _ in range(3)] == [1, 2, 3] == server.got
    assert wire.seen() == {"Fetch": 3}


def test_a_rule_is_for_one_request_the_nth_that_it_means(server: Server, wire: Wire, client: Client) -> None:
    rule = wire.on(api("Heartbeat"), Deed.DROP_REQUEST, nth=2)
    for n, key in enumerate((FETCH, HEARTBEAT, FETCH, HEARTBEAT, HEARTBEAT), 1):
        client.send(n, key)
    assert [client.get() for _ in range(4)] == [1, 2, 3, 5] == server.got
    assert rule.happened.is_set()
    assert [note.deed for note in wire.notes] == [Deed.PASS] * 3 + [Deed.DROP_REQUEST, Deed.PASS]


def test_a_produce_that_is_refused_has_another_topic_there(wire: Wire, client: Client) -> None:
    body = string("t-1") + struct.pack(">hii", -1, 30_000, 1) + string("events") + b"of events"
    rule = wire.on(api("Produce"), Deed.REFUSE)
    client.socket.sendall(frame(PRODUCE, 7, body))

    there = rule.wait_answer()  # the server has sent back what it got
    here = client.socket.recv(len(there), socket.MSG_WAITALL)

    assert there.endswith(string("stneve") + b"of events")
    assert here.endswith(string("events") + b"of events")


def test_a_rule_that_is_withdrawn_does_nothing(server: Server, wire: Wire, client: Client) -> None:
    rule = wire.on(any_request, Deed.DROP_REQUEST, nth=2)
    met = wire.on(any_request, Deed.PASS)
    client.send(1)
    assert client.get() == 1
    assert rule.withdrawn()
    assert not met.withdrawn()
    client.send(2)
    assert client.get() == 2
    assert not rule.happened.is_set()


def test_a_lost_reply(server: Server, wire: Wire, client: Client) -> None:
    rule = wire.on(any_request, Deed.DROP_REPLY)
    client.send(1)
    client.send(2)
    assert client.get() == 2
    assert server.got == [1, 2]
    assert rule.wait_answer()[4:8] == struct.pack(">i", 1)


def test_a_request_that_comes_twice_is_answered_once(server: Server, wire: Wire, client: Client) -> None:
    wire.on(any_request, Deed.DUPLICATE)
    client.send(1)
    client.send(2)
    assert [client.get(), client.get()] == [1, 2]
    assert server.got == [1, 1, 2]


def test_a_held_request_keeps_back_what_follows_it(server: Server, wire: Wire, client: Client) -> None:
    rule = wire.on(any_request, Deed.HOLD)
    client.send(1)
    client.send(2)
    rule.wait()
    assert client.get(NOTHING_SECONDS) is None
    assert server.got == []
    rule.release()
    assert [client.get(), client.get()] == [1, 2] == server.got


def test_a_hold_may_end_by_itself(server: Server, wire: Wire, client: Client) -> None:
    wire.on(any_request, Deed.HOLD, hold_seconds=NOTHING_SECONDS)
    client.send(1)
    assert client.get() == 1


@pytest.mark.parametrize("deed", [Deed.HOLD, Deed.HOLD_AND_CUT])
def test_a_held_request_comes_late_although_its_client_has_left(
    server: Server, wire: Wire, client: Client, deed: Deed
) -> None:
    rule = wire.on(any_request, deed)
    client.send(1)
    rule.wait()
    if deed is Deed.HOLD_AND_CUT:
        assert client.get() == 0
    client.socket.close()
    other = Client(wire)
    with other.socket:
        other.send(2)
        assert other.get() == 2
    assert server.got == [2]
    server.left.clear()
    rule.release()
    assert rule.wait_answer()
    assert server.got == [2, 1]
    assert server.left.wait(PATIENCE_SECONDS), "the server does not learn that the client has left"


def test_a_connection_cut_before_a_request_arrives(server: Server, wire: Wire, client: Client) -> None:
    wire.on(any_request, Deed.CUT_BEFORE, nth=2)
    for n in (1, 2, 3):
        client.send(n)
    assert client.get() in (0, 1)
    assert server.left.wait(PATIENCE_SECONDS)
    assert server.got == [1]


def test_a_connection_cut_when_a_request_was_answered(server: Server, wire: Wire, client: Client) -> None:
    rule = wire.on(any_request, Deed.CUT_AFTER)
    client.send(1)
    assert client.get() == 0
    assert server.got == [1]
    assert rule.wait_answer()
    assert server.left.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize(("deed", "got"), [(Deed.BLACKHOLE, []), (Deed.BLACKHOLE_AFTER, [1])])
def test_a_half_open_connection(server: Server, wire: Wire, client: Client, deed: Deed, got: list[int]) -> None:
    wire.on(any_request, deed)
    client.send(1)
    client.send(2)
    assert client.get(NOTHING_SECONDS) is None
    client.socket.close()
    assert not server.left.wait(NOTHING_SECONDS), "the server learned that the client has left"
    assert server.got == got


def test_a_network_that_goes_dark_and_heals(server: Server, wire: Wire, client: Client) -> None:
    client.send(1)
    assert client.get() == 1
    wire.blackhole()
    client.send(2)
    assert client.get(NOTHING_SECONDS) is None
    wire.heal()
    assert client.get() == 0, "a connection with a gap goes on"
    again = Client(wire)
    with again.socket:
        again.send(3)
        assert again.get() == 3
    assert server.got == [1, 3]


def test_a_connection_that_lost_nothing_but_an_answer_does_not_go_on_either(
    server: Server, wire: Wire, client: Client
) -> None:
    rule = wire.on(any_request, Deed.PASS, call=wire.blackhole)
    client.send(1)
    assert rule.wait_answer()
    wire.heal()
    assert client.get() == 0
    assert server.got == [1]


def test_a_call_is_made_at_the_request(server: Server, wire: Wire, client: Client) -> None:
    """This is how a worker is killed at its n-th send."""
    called: list[list[int]] = []
    wire.on(any_request, Deed.DROP_REQUEST, call=lambda: called.append([*server.got]))
    client.send(1)
    client.send(2)
    assert client.get() == 2
    assert called == [[]]


def test_garbage_closes_its_connection_and_no_other(
    server: Server, wire: Wire, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for data in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">i", 2**31 - 1), struct.pack(">i", -1)):
            bad = Client(wire)
            with bad.socket:
                bad.socket.sendall(data)
                assert bad.get() == 0
    assert len(wire.refused) == 3
    assert "is closed: a frame of 2147483647 bytes; it has 8 to 16000000" in wire.refused[1]
    assert caplog.messages == wire.refused
    client.send(1)
    assert client.get() == 1


def test_a_client_that_breaks_off_within_a_frame(wire: Wire, client: Client) -> None:
    broken = Client(wire)
    broken.socket.sendall(frame(FETCH, 0)[:9])
    broken.socket.close()
    client.send(1)
    assert client.get() == 1
    assert wire.refused == []


def test_a_server_that_is_away_closes_the_connection(server: Server, wire: Wire) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and it does not listen: a port that is free may be the next one that is given
        address = silent.getsockname()
        with Wire(address, address) as away:
            client = Client(away)
            with client.socket:
                assert client.get() == 0


def test_a_rule_that_fails_fails_the_test(server: Server) -> None:
    def broken(_: object) -> bool:
        raise LookupError("a defect of the test")

    def play() -> None:
        with Wire(server.address, server.address) as wire:
            wire.on(broken, Deed.PASS)
            client = Client(wire)
            with client.socket:
                client.send(1)
                assert client.get() == 0

    with pytest.raises(LookupError, match="a defect of the test"):
        play()


def test_its_ports_are_given_to_nobody_afterwards(server: Server) -> None:
    """Leftover Kafka clients go on asking there, and were taken for the next wire's worker."""
    with Wire(server.address, server.address) as wire:
        ports = [int(wire.address(name).split(":")[1]) for name in ("kafka", "postgres")]
        client = Client(wire)
        with client.socket:
            client.send(1)
            assert client.get() == 1
    for port in ports:
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))


def test_nothing_stays_behind(server: Server) -> None:
    with Wire(server.address, server.address) as wire:
        held = wire.on(any_request, Deed.HOLD)
        client = Client(wire)
        with client.socket:
            client.send(1)
            held.wait()
            dark = wire.on(any_request, Deed.BLACKHOLE)
            other = Client(wire)
            with other.socket:
                other.send(2)
                dark.wait()
    until(lambda: "wire" not in {thread.name for thread in threading.enumerate()}, "its thread has ended")
    assert server.got == []
