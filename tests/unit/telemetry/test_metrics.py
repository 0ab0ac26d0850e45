"""A log shows where something failed, and not the values there."""

import json
import logging
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from dependency_injector import containers, providers
from prometheus_client import generate_latest

from shared import command
from shared.calls import metrics as _calls  # noqa: F401 (calls have metrics of their own)
from shared.container import ServiceContainer
from shared.http import connections, guard, places, rate  # noqa: F401 (so have these)
from shared.postgres import backlog, pauses  # noqa: F401 (these too)
from shared.service import Service
from shared.settings import Settings
from shared.telemetry import metrics
from shared.testing import until


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variable(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.model_validate(
        {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": form}
    )

    def fail() -> None:
        at_hand = "swordfish"
        raise ValueError(len(at_hand))

    try:
        metrics.configure(settings)
        try:
            fail()
        except ValueError:
            structlog.get_logger().exception("failed")
        output = capsys.readouterr().err
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    assert "swordfish" not in output.replace('at_hand = "swordfish"', "")
    assert "fail" in output
    if form == "json":
        (trace,) = json.loads(output)["exception"]
        assert (trace["exc_type"], trace["frames"][-1]["name"]) == ("ValueError", "fail")


def test_what_a_library_logs_looks_like_our_own(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.model_validate(
        {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": "json"}
    )
    try:
        metrics.configure(settings, service="order")
        logging.getLogger("uvicorn.error").error("it %s", "broke")
        output = json.loads(capsys.readouterr().err)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.getLogger().handlers.clear()
    assert (output["event"], output["level"], output["service"]) == ("it broke", "error", "order")


def test_the_metrics_that_the_page_tells_to_watch_are_there() -> None:
    page = (Path(__file__).parents[3] / "docs" / "deploying.md").read_text()
    table = page.split("## What to watch")[1].split("\n## ")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    shown = re.findall(r"^# TYPE (\w+)", generate_latest().decode(), re.MULTILINE)
    assert len(told) > 5
    assert set(told) <= set(shown)


def test_a_scraper_that_hangs_up_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    server = metrics.serve("127.0.0.1", 0, lambda: (True, "x" * 4_000_000))
    handled = threading.Event()
    ended = server.shutdown_request

    def note(request: Any) -> None:
        ended(request)
        handled.set()

    server.shutdown_request = note  # type: ignore[method-assign]
    try:
        for path in ("/metrics", "/health/ready"):
            handled.clear()
            with socket.create_connection(("127.0.0.1", server.server_port)) as scraper:
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
                scraper.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            assert handled.wait(10)
    finally:
        server.shutdown()
        server.server_close()
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def health() -> Iterator[Any]:
    server = metrics.serve("127.0.0.1", 0, lambda: (True, "working"))
    yield server
    server.shutdown()
    server.server_close()


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as check:
        check.sendall(b"GET /health/ready HTTP/1.0\r\n\r\n")
        return check.makefile("rb").read().endswith(b"\r\n\r\nworking\n")


def handling() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_silent_clients_keep_no_health_check_waiting_and_hold_few_threads(
    monkeypatch: pytest.MonkeyPatch, health: Any
) -> None:
    """They would take file handles that the worker needs for its servers."""
    monkeypatch.setattr(metrics, "CLIENT_SECONDS", 300.0)
    monkeypatch.setattr(health.RequestHandlerClass, "timeout", 300.0)
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", health.server_port), timeout=10))

        assert all(answers(health.server_port) for _ in range(10))

        until(lambda: handling() <= metrics.CLIENTS_MAX, "the others are hung up on")


@pytest.mark.parametrize(("first", "then"), [(b"", b"G"), (b"GET / HTTP/1.1\r\n", b"X"), (b"GET / HTTP/1.1\r\n", b"")])
def test_a_client_that_drips_is_hung_up_on(
    health: Any, monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    monkeypatch.setattr(metrics, "CLIENT_SECONDS", 0.5)
    until(lambda: handling() == 0, "those of the test before have ended")
    with socket.create_connection(("127.0.0.1", health.server_port)) as slow:
        slow.sendall(first)
        until(lambda: handling() == 1, "it is served")

        def gone() -> bool:
            with suppress(OSError):
                slow.sendall(then)
            return handling() == 0

        until(gone, "it is hung up on")


@containers.copy(ServiceContainer)
class LonelyContainer(ServiceContainer):
    service = providers.Object(Service("lonely"))


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid", "x" * 300])
def test_a_port_of_metrics_that_cannot_be_listened_on_ends_a_worker_with_78(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """It ends before it asks any server."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = {
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
            "HTTP_HOST": host,
            "METRICS_PORT": str(port),
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        try:
            code = command.run(LonelyContainer(), ["worker"])
        finally:
            structlog.reset_defaults()
            logging.getLogger().handlers.clear()
    output = capsys.readouterr().err
    assert code == 78
    assert f"HTTP_HOST, METRICS_PORT: cannot listen on {host[:100]}:{port}: " in output
    assert "Traceback" not in output
