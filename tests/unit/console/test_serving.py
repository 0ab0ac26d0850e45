"""What the command `console` refuses before it listens, and whom it answers then."""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread
from typing import Any

import httpx
import pytest
from dependency_injector import containers, providers

from dev.servers.places import free_port
from shared.console.serving import serve
from shared.container import ServiceContainer
from shared.errors import Misconfigured
from shared.http import connections
from shared.testing import SECONDS_MAX, until
from tests.unit.console.desk import settings, shop

NOBODY = "0" * 64


@containers.copy(ServiceContainer)
class ShopContainer(ServiceContainer):
    service = providers.Object(shop())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"api_auth": "on", "api_tokens": ""}, "API_TOKENS: without a token"),
        ({"api_auth": "on", "api_tokens": f"shop:orders:read:{NOBODY}"}, "none has the scope console:read"),
        ({"console_host": "0.0.0.0"}, "everybody who reaches it could redrive"),
        ({"console_names": "https://a"}, "CONSOLE_NAMES: write names alone"),
        (
            {"api_auth": "on", "api_tokens": f"ada:console:read:{NOBODY}", "console_host": "a..b"},
            r"CONSOLE_HOST, CONSOLE_PORT: cannot listen on a\.\.b",
        ),
    ],
)
def test_what_would_be_of_no_use_or_open_to_all_is_refused(
    given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    container: Any = ShopContainer()
    container.settings.override(providers.Object(settings(**given)))

    with pytest.raises(Misconfigured, match=words):
        serve(container, None)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a console that listens, and has room for 20 connections."""
    stops: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda _, stop: stops.append(stop))
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 20)
    found = free_port()
    container: Any = ShopContainer()
    container.settings.override(providers.Object(settings(console_port=found)))
    thread = Thread(target=serve, args=(container, None), daemon=True)
    thread.start()
    until(lambda: _answers(found), "it answers", SECONDS_MAX)
    yield found
    stops[0](signal.SIGTERM, None)
    thread.join(SECONDS_MAX)
    assert not thread.is_alive()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_silent_connections_lock_nobody_out(port: int) -> None:
    with ExitStack() as stack:
        for n in range(220):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            silent.sendall(b"GET / HTTP/1.1\r\n" if n % 2 else b"")
        assert all(_answers(port) for _ in range(3))


def test_two_names_of_a_host_are_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), SECONDS_MAX) as both:
        both.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert both.recv(12) == b"HTTP/1.1 400"
