"""Metrics; and the small HTTP server of a worker that shows its health and its metrics."""

import math
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest

from shared.gauges import Known
from shared.logs import configure, log

__all__ = ["configure", "log"]

RECEIVED = Counter("records_received", "Records taken from Kafka")
HANDLED = Counter("events_handled", "Events that took effect")
DUPLICATES = Counter("events_duplicate", "Events dropped because they had taken effect before")
SKIPPED = Counter("events_skipped", "Events of a type that this service does not hear")
SET_ASIDE = Counter("records_set_aside", "Records moved to the dead letters")
SAID = Counter("events_said", "Outbox rows committed to Kafka")
ATTEMPTS_FAILED = Counter("batches_failed", "Batches rolled back and tried again")
RECOVERIES = Counter("recoveries", "Recoveries, by what was in doubt", ["cause"])
STATES = ("starting", "standby", "recovering", "working", "waiting", "stopped", "ending")
STATE = Known("worker_state", "1 for the state that this worker is in, 0 for all others", ("state",), lasts=math.inf)
PARKED = Known("inputs_parked", "Inputs that wait after a Retry; absent unless the worker works", lasts=math.inf)
LANES = Known(
    "lanes_owned", "Lanes that this worker says the events of; absent unless the worker works", lasts=math.inf
)
LAG = Known(
    "records_lag",
    "Offsets between H and the end of an input, those that are held back included; absent while it is not known",
    ("topic", "partition"),
)
HELD = Known(
    "records_held_back_seconds",
    "How long an open transaction of somebody holds an input back; 0: none does; absent while it is not known",
    ("topic", "partition"),
)
HOLDERS = Known(
    "records_held_back_holder",
    "1 for each input that is held back for more than ten seconds: by the transaction of that transactional id",
    ("topic", "partition", "transactional_id"),
)
CYCLE = Histogram(
    "cycle_seconds",
    "One cycle that had something to do",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


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

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - http.server's own
            # Whoever asked has hung up, or says nothing: that is no error of ours, and no news.
            if not isinstance(sys.exc_info()[1], OSError):
                log.error("health_failed", client=str(client_address[0]), exc_info=True)

    server = Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
