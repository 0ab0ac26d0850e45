"""All of a process's output has one form, and repeated lines are counted."""

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from shared.settings import Settings
from shared.telemetry import folding, logs
from shared.telemetry.folding import Folding


def settings(**given: str) -> Settings:
    told = {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": "json", **given}
    return Settings.model_validate(told)


@pytest.fixture
def configured() -> Iterator[Any]:
    """Returns what configures logs as JSON; a test calls it itself, since only then its standard error is captured."""
    yield lambda: logs.configure(settings(), service="order")
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines written since the last call."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_what_a_library_logs_is_in_our_form_also_if_its_arguments_are_wrong(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configured()
    logging.getLogger("uvicorn.error").error("it %s", "broke")
    logging.getLogger("careless").error("%d of them", "many")

    assert [(line["event"], line["logger"], line["service"]) for line in lines(capsys)] == [
        ("it broke", "uvicorn.error", "order"),
        ("%d of them ('many',)", "careless", "order"),
    ]


def test_the_lines_of_a_kafka_client_are_in_our_form(configured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    client = logs.of_client("order-0.consumer")
    client.log(logging.ERROR, "%s [%s] %s", "FAIL", "order-0#consumer-1", "127.0.0.1:9092/1: Connection refused")

    (line,) = lines(capsys)
    assert line["detail"] == "127.0.0.1:9092/1: Connection refused"
    assert (line["event"], line["facility"], line["client"]) == ("kafka_client", "FAIL", "order-0#consumer-1")
    assert line["level"] == "warning"


def test_a_logger_is_its_clients_alone_and_goes_with_it() -> None:
    class Seen(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.lines.append(record.getMessage())

    first, second = Seen(), Seen()
    logger, other = logs.of_client("admin", first), logs.of_client("admin", second)
    logger.warning("refused")
    assert (first.lines, second.lines) == (["refused"], [])

    gone = weakref.ref(logger)
    del logger
    gc.collect()
    assert gone() is None
    assert other.name not in logging.root.manager.loggerDict


def test_a_line_of_any_thread_names_the_service(configured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    thread = threading.Thread(target=lambda: structlog.get_logger().info("looked"))
    thread.start()
    thread.join()

    assert [line["service"] for line in lines(capsys)] == ["order"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def written(capsys: pytest.CaptureFixture[str], clock: Clock) -> tuple[Folding, Any]:
    """Make a folding that writes JSON."""
    made = Folding(clock)
    structlog.configure(
        processors=[structlog.processors.add_log_level, made, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    return made, lambda: lines(capsys)


@pytest.fixture
def reset() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_what_repeats_itself_is_counted_whatever_its_numbers(reset: None, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    made, read = written(capsys, clock)
    log = structlog.get_logger()
    for number in range(2_574):
        log.warning("kafka_client", facility="FAIL", detail=f"127.0.0.1:{number}: refused (after {number} ms)")

    assert [line.get("repeated") for line in read()] == [None]
    made.flush()
    assert read() == [], "its minute is not over"
    clock.now = folding.SECONDS
    made.flush()
    (line,) = read()
    assert (line["repeated"], line["event"], line["level"]) == (2_573, "kafka_client", "warning")
    made.flush(everything=True)
    assert read() == [], "a count is written once"


def test_a_closed_output_does_not_end_the_thread_that_writes_counts_and_another_log_does(
    reset: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folding, "LOOK_SECONDS", 0.01)
    clock = Clock()
    made, _ = written(capsys, clock)
    tried = threading.Event()

    class Closed:
        def write(self, _text: str) -> None:
            tried.set()
            raise ValueError("I/O operation on closed file.")

        flush = write

    def repeat(event: str) -> None:
        made(None, "", {"event": event, "level": "warning"})
        with pytest.raises(structlog.DropEvent):
            made(None, "", {"event": event, "level": "warning"})
        tried.clear()  # first: from then on the thread may write it at any moment
        clock.now += folding.SECONDS

    repeat("waiting")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(Closed()))  # type: ignore[arg-type]
    thread = made.watch()
    assert tried.wait(10)
    repeat("still waiting")
    assert tried.wait(10), "the thread goes on"

    written(capsys, clock)
    thread.join(10)
    assert not thread.is_alive(), "its folding is no longer part of the log"
    made.flush(everything=True)
    assert lines(capsys) == []


def test_a_count_says_when_it_was_the_last_time_and_comes_soon_after(
    reset: None, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    made, read = written(capsys, clock)
    log = structlog.get_logger()
    log.warning("waiting", detail="no answer")
    before = datetime.now(UTC)
    log.warning("waiting", detail="no answer")
    after = datetime.now(UTC)
    read()

    clock.now = folding.QUIET_SECONDS - 1
    made.flush()
    assert read() == [], "it may go on"
    clock.now = folding.QUIET_SECONDS
    made.flush()
    (line,) = read()
    assert line["repeated"] == 1
    assert before <= datetime.fromisoformat(line["last"]) <= after


@pytest.mark.parametrize(
    ("level", "event"),
    [
        ("warning", "kafka_available"),
        ("warning", "held_back_ended"),
        ("info", "worker_ended"),
        ("info", "resumed"),
        ("critical", "watchdog"),
    ],
)
def test_counts_come_before_the_line_that_says_that_it_is_over(
    reset: None, capsys: pytest.CaptureFixture[str], level: str, event: str
) -> None:
    _, read = written(capsys, Clock())
    log = structlog.get_logger()
    for _ in range(3):
        log.warning("waiting", detail="no answer")
    log.info("looked")
    getattr(log, level)(event)
    log.warning("waiting", detail="no answer")

    told = [(line["event"], line.get("repeated")) for line in read()]
    assert told == [("waiting", None), ("looked", None), ("waiting", 2), (event, None), ("waiting", None)]


def test_the_next_line_of_a_kind_brings_the_count(reset: None, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    _, read = written(capsys, clock)
    log = structlog.get_logger()
    log.warning("waiting", detail="no answer", seconds=0.1)
    log.warning("waiting", detail="no answer", seconds=0.2)
    clock.now = folding.SECONDS + 1
    log.warning("waiting", detail="no answer", seconds=0.4)

    assert [line.get("repeated") for line in read()] == [None, 1]


def test_what_is_about_different_things_is_not_folded(reset: None, capsys: pytest.CaptureFixture[str]) -> None:
    _, read = written(capsys, Clock())
    log = structlog.get_logger()
    for offset in range(3):
        log.error("set_aside", source="a[0]", offset=offset)
    for _ in range(2):
        log.info("pruned", rows=5)
        log.critical("stopped", error="RecordsLost")

    assert len(read()) == 7


def test_many_kinds_take_little_memory_and_no_count_is_lost(reset: None, capsys: pytest.CaptureFixture[str]) -> None:
    made, read = written(capsys, Clock())
    log = structlog.get_logger()
    for offset in range(2 * folding.KINDS_MAX):
        log.warning("odd", offset=offset)
        log.warning("odd", offset=offset)

    assert len(made._kinds) == folding.KINDS_MAX
    made.flush(everything=True)
    assert sum(line.get("repeated", 0) for line in read()) == 2 * folding.KINDS_MAX


FAILING = """
import atexit, sys, threading, warnings
from shared.telemetry import logs
from shared.settings import Settings
told = {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": "json"}
logs.configure(Settings.model_validate(told), service="order")
logs.catch_all()
atexit.register(lambda: [logs.log.warning("late") for _ in range(3)])
class Bad:
    def __del__(self):
        raise ValueError("in del")
warnings.warn("careful")
bad = Bad()
del bad
def fail():
    raise ValueError("in thread")
thread = threading.Thread(target=fail, name="side")
thread.start()
thread.join()
for _ in range(3):
    logs.log.warning("again")
raise ValueError("at the end")
"""


def test_what_python_writes_by_itself_is_in_our_form_and_counts_are_written_at_the_end() -> None:
    done = subprocess.run(
        (sys.executable, "-c", FAILING), capture_output=True, text=True, check=False, env={**os.environ}, timeout=60
    )
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert "careful" in found[0]["event"]
    assert [(line["event"], line.get("detail"), line.get("repeated")) for line in found[1:]] == [
        ("unraisable", "", None),
        ("uncaught", "in thread", None),
        ("again", None, None),
        ("again", None, 2),
        ("uncaught", "at the end", None),
        ("late", None, None),
        ("late", None, 2),
    ]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_refusal_is_in_the_wanted_form_also_if_it_is_about_the_settings(form: str, tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-c", REFUSED),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"LOG_FORMAT": form, "PARTITIONS": "0", "PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=60,
    )
    assert done.returncode == 78
    if form == "json":
        line = json.loads(done.stderr)
        assert (line["event"], line["level"], line["service"], line["process"]) == (
            "refused",
            "critical",
            "s",
            "worker",
        )
        assert "PARTITIONS" in line["detail"]
    else:
        assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
            "s worker",
            "  KAFKA_BOOTSTRAP_SERVERS",
            "  DATABASE_URL",
            "  PARTITIONS",
        ]


REFUSED = """
import sys
from dependency_injector import containers, providers
from shared import command
from shared.container import ServiceContainer
from shared.service import Service

@containers.copy(ServiceContainer)
class Made(ServiceContainer):
    service = providers.Object(Service("s"))

sys.argv = ["s", "worker"]
command.main(Made)
"""
