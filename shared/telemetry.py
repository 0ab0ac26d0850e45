"""Logs and metrics, with the same names in both; and the small HTTP server of a worker that shows its health and its
metrics.
"""

import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RECEIVED = Counter("records_received", "Records taken from Kafka")
HANDLED = Counter("events_handled", "Events that took effect")
DUPLICATES = Counter("events_duplicate", "Events dropped because they had taken effect before")
SKIPPED = Counter("events_skipped", "Events of a type that this service does not hear")
SET_ASIDE = Counter("records_set_aside", "Records moved to the dead letters")
SAID = Counter("events_said", "Outbox rows committed to Kafka")
ATTEMPTS_FAILED = Counter("batches_failed", "Batches rolled back and tried again")
RECOVERIES = Counter("recoveries", "Recoveries, by what was in doubt", ["cause"])
PARKED = Gauge("inputs_parked", "Inputs that wait after a Retry")
LANES = Gauge("lanes_owned", "Lanes that this worker says the events of")
LAG = Gauge(
    "records_lag", "Offsets between H and the end of an input, control markers included", ["topic", "partition"]
)
CYCLE = Histogram(
    "cycle_seconds",
    "One cycle that had something to do",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""By itself structlog shows every variable of every frame: passwords, and the headers of requests."""


def configure(settings: Settings, **facts: object) -> None:
    """Write logs to standard error in the wanted form; `facts` go with every line."""
    renderer: structlog.typing.Processor
    tracebacks: structlog.typing.Processor = structlog.processors.format_exc_info
    if settings.log_format == "json":
        renderer, tracebacks = structlog.processors.JSONRenderer(), _TRACEBACKS
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        tracebacks,
    ]
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**facts)
    # What libraries log by themselves looks the same.
    form = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=processors,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def serve(host: str, port: int, ready: Callable[[], tuple[bool, str]]) -> ThreadingHTTPServer:
    """Answer /health/live, /health/ready and /metrics on a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds; a client that does not speak must not hold a thread

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path == "/health/live":
                self._answer(200, "text/plain", b"live\n")
            elif self.path == "/health/ready":
                good, why = ready()
                self._answer(200 if good else 503, "text/plain; charset=utf-8", f"{why}\n".encode())
            else:
                self._answer(404, "text/plain", b"try /health/live, /health/ready or /metrics\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A probe every second is no news."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
