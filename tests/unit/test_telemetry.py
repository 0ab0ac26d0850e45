"""A log tells where something failed, and not what was at hand there."""

import json
import logging
import re
from pathlib import Path

import pytest
import structlog
from prometheus_client import generate_latest

from shared import backlog, telemetry  # noqa: F401 (backlog has metrics of its own)
from shared.http import guard, rate  # noqa: F401 (so have these)
from shared.settings import Settings


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variable(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.model_validate(
        {"kafka_bootstrap_servers": "x", "database_url": "postgresql://x", "log_format": form}
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
        {"kafka_bootstrap_servers": "x", "database_url": "postgresql://x", "log_format": "json"}
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
