"""A service's own log lines name their work while it goes on, and no longer."""

import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog

from shared.errors import HandlingFailed
from shared.events import Envelope, Event
from shared.postgres.handlers import Handlers
from shared.protocol.cycle import Progress
from shared.protocol.ports import Delivery, Input, Record
from shared.service import Service
from shared.session import Session
from shared.settings import Settings
from shared.telemetry import log_context, logs
from shared.worker import reporting

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Placed(Event, frozen=True, kw_only=True):
    topic = "order.events"
    id: str


@pytest.fixture
def configured() -> Iterator[Any]:
    """Returns what configures logs; a test calls it itself, since only then its standard error is captured."""

    def configure(level: str = "info", form: str = "json") -> None:
        told = {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": form}
        logs.configure(Settings.model_validate({**told, "log_level": level}), service="order")

    yield configure
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    for name in ("", *logs.CHATTY):
        logging.getLogger(name).setLevel(logging.WARNING if not name else logging.NOTSET)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def log_in_every_way() -> None:
    logging.info("by the root of logging, %s", "an argument")  # noqa: LOG015
    logging.getLogger("services.order.handlers").info("by a logger of its own", extra={"amount": 3, "event": "no"})
    structlog.get_logger().info("by structlog", amount=4)


def handle(*deliveries: Delivery) -> None:
    """Handle events as a worker does; the session here needs no database."""
    service = Service("order")

    @service.on(Placed)
    def handler(event: Placed) -> None:
        log_in_every_way()
        if event.id == "defect":
            raise ValueError(event.id)

    class NoDatabase(Session):
        def __init__(self) -> None:
            super().__init__(cast("Any", None))

    Handlers(service).run(deliveries, NoDatabase(), lambda _one, events: None)


def delivery(number: int, event_id: str = "e") -> Delivery:
    record = Record(Input("order.events", 2), number, b"o-1", b"", None)
    traceparent = f"00-{TRACE}-b7ad6b7169203331-01\ntracestate: v=1\nbaggage: tenant=eu-7-a-b" if number else None
    envelope = Envelope(f"order:{number}", "order", "Placed", 1, "", "o-1", b"", traceparent)
    return Delivery(record, envelope, Placed(id=event_id), 0)


def test_what_a_handler_logs_is_written_with_the_event(configured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    handle(delivery(7), delivery(0))
    log_in_every_way()

    written = lines(capsys)
    assert not any("eu-7" in str(line) for line in written), "baggage may hold what no log should"
    about = {"event_type": "Placed.v1", "key": "o-1", "topic": "order.events", "partition": 2}
    expected = [
        {**about, "event_id": "order:7", "offset": 7, "trace_id": TRACE},
        {**about, "event_id": "order:0", "offset": 0},
        {},
    ]
    for n, facts in enumerate(expected):
        assert [line["event"] for line in written[3 * n : 3 * n + 3]] == [
            "by the root of logging, an argument",
            "by a logger of its own",
            "by structlog",
        ]
        for line in written[3 * n : 3 * n + 3]:
            names = {"event_id", "event_type", "key", "topic", "partition", "offset", "trace_id"}
            assert {name: line[name] for name in names & line.keys()} == facts
            assert (line["level"], line["service"]) == ("info", "order")
    assert [written[1]["amount"], written[2]["amount"]] == [3, 4]


def test_a_handler_that_fails_leaves_nothing_of_its_event_behind(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configured()
    with pytest.raises(HandlingFailed):
        handle(delivery(1, "defect"))
    structlog.get_logger().info("after it")
    assert "event_id" not in lines(capsys)[-1]


def test_in_the_form_for_people_too(configured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configured(form="console")
    handle(delivery(7))
    assert capsys.readouterr().err.count("event_id=order:7") == 3


def test_the_level_holds_for_the_service_and_libraries_warn_only(
    configured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configured("debug")
    logging.getLogger("services.order").debug("seen")
    for name in ("httpx", "sqlalchemy.engine.Engine", "uvicorn.access"):
        logging.getLogger(name).info("not seen")
        assert not logging.getLogger("sqlalchemy.engine").isEnabledFor(logging.INFO)
    configured("error")
    log_in_every_way()
    assert [line["event"] for line in lines(capsys)] == ["seen"]


def test_what_somebody_else_has_chosen_does_not_make_a_line_long() -> None:
    found = delivery(1)
    long = found._replace(
        envelope=Envelope("i" * 500, "s", "t" * 500, 1, "", "k" * 100_000, b"", "\nbaggage: a=b-c-d-e")
    )
    assert max(len(str(value)) for value in log_context.of_delivery(long).values()) < 300
    assert "trace_id" not in log_context.of_delivery(long)


def test_at_debug_the_library_tells_each_batch(
    configured: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for level in ("info", "debug"):
        configured(level)
        monkeypatch.setattr(reporting, "log", structlog.get_logger())  # the module's own keeps its first level
        reporting._tell(Progress(received=5, handled=3, duplicates=1, skipped=1, published=2), 0.25)
    (line,) = [line for line in lines(capsys) if line["event"] == "batch"]
    assert (line["received"], line["handled"], line["published"], line["seconds"]) == (5, 3, 2, 0.25)
