"""A log tells where something failed, and not what was at hand there."""

import json
import logging
import re
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import generate_latest

from shared import backlog, telemetry  # noqa: F401 (backlog has metrics of its own)
from shared.http import guard, rate  # noqa: F401 (so have these)
from shared.settings import Settings


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variable(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.model_validate(
        {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": form}
    )

    def fail() -> None:
        at_hand = "swordfish"
        raise ValueError(len(at_hand))

    try:
        telemetry.configure(settings)
        try:
            fail()
        except ValueError:
            structlog.get_logger().exception("failed")
        said = capsys.readouterr().err
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    assert "swordfish" not in said.replace('at_hand = "swordfish"', "")
    assert "fail" in said
    if form == "json":
        (trace,) = json.loads(said)["exception"]
        assert (trace["exc_type"], trace["frames"][-1]["name"]) == ("ValueError", "fail")


def test_what_a_library_logs_looks_like_our_own(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.model_validate(
        {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": "json"}
    )
    try:
        telemetry.configure(settings, service="order")
        logging.getLogger("uvicorn.error").error("it %s", "broke")
        said = json.loads(capsys.readouterr().err)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.getLogger().handlers.clear()
    assert (said["event"], said["level"], said["service"]) == ("it broke", "error", "order")


def test_the_metrics_that_the_page_tells_to_watch_are_there() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
    table = page.split("## What to watch")[1].split("\n## ")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    shown = re.findall(r"^# TYPE (\w+)", generate_latest().decode(), re.MULTILINE)
    assert len(told) > 5
    assert set(told) <= set(shown)


def test_a_scraper_that_hangs_up_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    server = telemetry.serve("127.0.0.1", 0, lambda: (True, "x" * 4_000_000))
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
