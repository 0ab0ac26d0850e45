"""Logs: every line of a running process has the format of LOG_FORMAT, including those of its libraries."""

import atexit
import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog

from ..configuration.program import PACKAGE
from ..settings import Settings
from . import log_context
from .folding import Folding

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""By default structlog shows every variable of every frame, with passwords and request headers."""

CHATTY = ("alembic", "asyncio", "concurrent", "fastapi", "psycopg", "sqlalchemy", "uvicorn")
"""Loggers of libraries that would build lines, or statements with their values, only to be dropped."""

_NOT_EXTRA = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "event", "level", "logger"}
"""The standard attributes of a `logging` record; any others are the caller's `extra` fields."""


def configure(settings: Settings, **facts: object) -> None:
    """Write logs to standard error in the configured format, with `facts` in every line of every thread."""
    renderer: structlog.typing.Processor
    tracebacks: structlog.typing.Processor = structlog.processors.format_exc_info
    if settings.log_format == "json":
        renderer, tracebacks = structlog.processors.JSONRenderer(), _TRACEBACKS
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

    def add_facts(_logger: object, _method: str, line: Any) -> Any:
        return {**facts, **line}

    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    folding = Folding()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            log_context.add,
            add_facts,
            structlog.processors.add_log_level,
            folding,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[Libraries()], level=level, force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    atexit.register(folding.flush, everything=True)
    folding.watch()


def silence() -> None:
    """Write no line, of the libraries neither: for a command whose output says everything."""

    def drop(_logger: object, _method: str, _line: object) -> Any:
        raise structlog.DropEvent

    structlog.configure(processors=[drop], cache_logger_on_first_use=False)
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)


class Libraries(logging.Handler):
    """Writes records of `logging` like our own lines: those of a service from LOG_LEVEL up, those of libraries from
    warning up.
    """

    def __init__(self) -> None:
        super().__init__()
        main = getattr(sys.modules.get("__main__"), "__spec__", None)
        self._own = {"root", "__main__", PACKAGE, *((main.name.partition(".")[0],) if main is not None else ())}

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        if record.levelno < logging.WARNING and record.name.partition(".")[0] not in self._own:
            return
        extra = {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
        try:
            words = record.getMessage()
        except (TypeError, ValueError):  # the line was logged with the wrong arguments
            words = f"{record.msg} {record.args}"
        structlog.get_logger().log(_level(record), words, logger=record.name, exc_info=record.exc_info or None, **extra)


class _ClientLines(logging.Handler):
    """Writes librdkafka's lines like our own. Its clients deliver them when they are polled."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one, made of a facility, the client's name, and the message."""
        facts = record.args if isinstance(record.args, tuple) and len(record.args) == 3 else None
        facility, client, words = facts or ("", "", record.getMessage())
        structlog.get_logger().log(
            # A lost connection is an error to the client, but it reconnects.
            min(_level(record), logging.WARNING),
            "kafka_client",
            facility=str(facility),
            client=str(client),
            detail=str(words),
        )


def of_client(name: str, handler: logging.Handler | None = None) -> logging.Logger:
    """Return the `logger` for a Kafka client: without one librdkafka writes to standard error in its own format.

    `handler` takes its lines; without it they are written like our own. `logging.getLogger` would keep the logger,
    and the handler with the client that it watches, for as long as the process lives, and share it between clients.
    """
    logger = logging.Logger(f"librdkafka.{name}", logging.DEBUG)  # noqa: LOG001 (see above)
    logger.addHandler(handler or _ClientLines())
    return logger


def catch_all() -> None:
    """Log what Python itself would print: warnings, exceptions that end the process or a thread, and unraisable ones.
    Only for processes that we start ourselves: the hooks are never removed.
    """
    logging.captureWarnings(capture=True)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt) or not structlog.is_configured():
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("uncaught", error=kind.__name__, detail=str(error), exc_info=(kind, error, trace))

    def in_thread(found: Any) -> None:
        if found.exc_type is not SystemExit:
            name = found.thread.name if found.thread else None
            exc_info = (found.exc_type, found.exc_value, found.exc_traceback)
            log.error(
                "uncaught", error=found.exc_type.__name__, detail=str(found.exc_value), thread=name, exc_info=exc_info
            )

    def unraisable(found: Any) -> None:
        exc_info = (found.exc_type, found.exc_value, found.exc_traceback)
        log.error("unraisable", error=found.exc_type.__name__, detail=found.err_msg or "", exc_info=exc_info)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable


def in_json() -> bool:
    """Return whether logs are in JSON, even before the settings are read, or if they cannot be."""
    if structlog.is_configured():
        return isinstance(structlog.get_config()["processors"][-1], structlog.processors.JSONRenderer)
    return os.environ.get("LOG_FORMAT", "").lower() == "json"


def log_misconfigured(service: str, process: str, detail: str) -> None:
    """Report in one line of JSON why a process does not start; its settings may be the cause."""
    time = datetime.now(UTC).isoformat()
    line = {"service": service, "process": process, "detail": detail, "event": "refused", "level": "critical"}
    sys.stderr.write(f"{json.dumps({**line, 'timestamp': time})}\n")


def _level(record: logging.LogRecord) -> int:
    """Return the nearest level that structlog has."""
    return max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))
