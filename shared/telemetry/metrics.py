"""Metrics, and a worker's small HTTP server for its health and metrics."""

import math
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest

from .gauges import Known
from .logs import configure, log

__all__ = ["configure", "log"]

RECEIVED = Counter("exactly_once_records_consumed", "Records taken from Kafka")
HANDLED = Counter("exactly_once_events_handled", "Events that took effect")
DUPLICATES = Counter("exactly_once_events_duplicate", "Events dropped because they had taken effect before")
SKIPPED = Counter("exactly_once_events_skipped", "Events of a type that this service does not consume")
SET_ASIDE = Counter("exactly_once_records_set_aside", "Records moved to the dead letters")
RECORDS_PARKED = Counter("exactly_once_records_parked", "Records parked: they wait, or the first of their key does")
UNREAD = Counter(
    "exactly_once_records_unreadable", "Of the records set aside, those that reached no handler: not events"
)
PUBLISHED = Counter("exactly_once_events_published", "Outbox rows committed to Kafka")
ATTEMPTS_FAILED = Counter("exactly_once_batches_failed", "Batches rolled back and tried again")
RECOVERIES = Counter("exactly_once_recoveries", "Recoveries, by what was in doubt", ["cause"])
STATES = ("starting", "standby", "recovering", "working", "waiting", "stopped", "ending")
STATE = Known(
    "exactly_once_worker_state", "1 for the state that this worker is in, 0 for all others", ("state",), lasts=math.inf
)
PARKED = Known(
    "exactly_once_partitions_parked", "Inputs that wait after a Retry; absent unless the worker works", lasts=math.inf
)
FILLED = Known(
    "exactly_once_parked_filled_ratio",
    "How near the fullest partition is to a bound of what may be parked; 1: it waits; absent unless the worker works",
    lasts=math.inf,
)
LANES = Known(
    "exactly_once_lanes_owned",
    "Lanes whose events this worker publishes; absent unless the worker works",
    lasts=math.inf,
)
LAG = Known(
    "exactly_once_consumer_lag_records",
    (
        "Offsets between the next offset and the end of an input, those that are held back included; absent while it "
        "is not known"
    ),
    ("topic", "partition"),
)
HELD = Known(
    "exactly_once_partition_held_back_seconds",
    "How long an open transaction has held an input back; 0: none does; absent while it is not known",
    ("topic", "partition"),
)
HOLDERS = Known(
    "exactly_once_partition_held_back_by",
    "1 for each input held back for more than ten seconds, by the transaction with this transactional id",
    ("topic", "partition", "transactional_id"),
)
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
COUNTS = (0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
"""The buckets of histograms."""
CYCLE = Histogram("exactly_once_batch_seconds", "One cycle that had something to do", buckets=SECONDS)

# What passes through a worker's ports (`shared.worker.measured`).
RECORDS_RECEIVED = Counter(
    "exactly_once_records_received", "Records fetched from Kafka, again after a recovery too", ["topic"]
)
BYTES_RECEIVED = Counter("exactly_once_received_bytes", "Bytes of the values of these records", ["topic"])
RECORDS_PUBLISHED = Counter(
    "exactly_once_records_published", "Outbox rows of Kafka transactions that plainly succeeded", ["topic"]
)
BYTES_PUBLISHED = Counter("exactly_once_published_bytes", "Bytes of the events in these rows", ["topic"])
RECORDS_DECIDED = Counter(
    "exactly_once_records_decided",
    "Records by what became of them: handled, duplicate (dropped), parked (and decided again later) or set_aside; "
    "those received beyond these are of types that nobody consumes, or were tried again",
    ["topic", "status"],
)
RECORDS_IN_DOUBT = Counter(
    "exactly_once_records_in_doubt",
    "Outbox rows of Kafka transactions that did not plainly succeed: the recovery publishes those that Kafka lacks",
    ["topic"],
)
PUBLISH = Histogram(
    "exactly_once_publish_seconds",
    "From the decision until Kafka has acknowledged the commit, for the oldest row of each Kafka transaction that "
    "plainly succeeded. It is wrong by what the clocks of PostgreSQL, which times the decision, and of the worker "
    "differ; never below 0",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
KAFKA_TRANSACTION = Histogram(
    "exactly_once_kafka_transaction_seconds",
    "A Kafka transaction that plainly succeeded, from its beginning until its commit was acknowledged",
    buckets=SECONDS,
)
KAFKA_ROWS = Histogram(
    "exactly_once_kafka_transaction_rows",
    "Outbox rows of these transactions; 0: it only reported next offsets",
    buckets=COUNTS,
)
KAFKA_FAILED = Counter(
    "exactly_once_kafka_transactions_failed",
    "Kafka transactions that did not plainly succeed, by the class of the error. The recovery that follows learns what "
    "became of each, and ends it if it is open",
    ["cause"],
)
DATABASE_TRANSACTION = Histogram(
    "exactly_once_database_transaction_seconds",
    "A worker's transaction in PostgreSQL, from BEGIN until its COMMIT was acknowledged",
    buckets=SECONDS,
)
BATCH_EVENTS = Histogram(
    "exactly_once_batch_events", "Events that the handlers got in one of these transactions", buckets=COUNTS
)
HANDLING_SECONDS = Counter(
    "exactly_once_handling_seconds",
    "Time in handlers and in loading their rows, by the type of the event; (mixed): of batches with several types",
    ["type"],
)
HANDLING_EVENTS = Counter(
    "exactly_once_handling_events", "Events handled in that time, those tried again included", ["type"]
)

# Whether the brokers have what a service needs (`shared.kafka.brokers`).
UNDER_REPLICATED = Known(
    "exactly_once_kafka_partitions_under_replicated",
    "Partitions of a topic of which a replica is not in sync; absent while it is not known",
    ("topic",),
)
OFFLINE = Known(
    "exactly_once_kafka_partitions_offline",
    "Partitions of a topic that have no leader: nobody reads or writes them; absent while it is not known",
    ("topic",),
)
BELOW_MIN_ISR = Known(
    "exactly_once_kafka_partitions_below_min_isr",
    "Partitions of a topic with fewer replicas in sync than its min.insync.replicas: nobody publishes there; absent "
    "while it is not known, or may not be: it needs the right DESCRIBE_CONFIGS on the topic",
    ("topic",),
)

# What the Kafka client itself knows of its connections (`shared.kafka.connections`).
ROUND_TRIP = Known(
    "exactly_once_kafka_broker_round_trip_seconds",
    "99th percentile of the latest requests of a worker's observer to this broker, some each three seconds; absent "
    "while there are none",
    ("broker",),
)
CONNECTED = Known(
    "exactly_once_kafka_broker_connected",
    "1 if the observer of this worker is connected to this broker, 0 if it cannot connect; absent if it need not",
    ("broker",),
)
DISCONNECTS = Counter(
    "exactly_once_kafka_broker_disconnects", "Connections of a worker's observer to this broker that broke", ["broker"]
)


CLIENTS_MAX = 32
"""Maximum open connections at the port for health and metrics; one or two are needed at a time."""
CLIENT_SECONDS = 10.0
"""Limit of a request and its answer together, however slow; they are a few thousand bytes."""
CLIENT_SILENT_SECONDS = 5.0
ACCEPT_AGAIN_SECONDS = 0.1


def serve(host: str, port: int, ready: Callable[[], tuple[bool, str]]) -> ThreadingHTTPServer:
    """Serve /health/live, /health/ready and /metrics on a separate thread. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SILENT_SECONDS

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
            """Log nothing: a probe every second is not worth a line."""

    server = _Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    """A thread per client, of limited number: slow clients must not use up a worker's threads, nor the files it needs
    for Kafka and PostgreSQL, nor delay a health check.
    """

    daemon_threads = True
    request_queue_size = 128  # with the default of 5, a check that arrives among many waits a second

    def __init__(self, *given: Any) -> None:
        self._open: dict[socket.socket, float] = {}
        """When each was opened, by the monotonic clock; the oldest first."""
        self._lock = threading.Lock()
        super().__init__(*given)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError:  # out of files, and the selector reports the waiting client again at once
            time.sleep(ACCEPT_AGAIN_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client on a thread; if there are too many, disconnect the oldest."""
        with self._lock:
            self._open[request] = time.monotonic()
            crowded = next(iter(self._open)) if len(self._open) > CLIENTS_MAX else None
        if crowded is not None:
            self._hang_up(crowded)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Disconnect clients that take too long; called twice a second."""
        too_old = time.monotonic() - CLIENT_SECONDS
        with self._lock:
            late = [client for client, since in self._open.items() if since < too_old]
        for client in late:
            self._hang_up(client)

    def shutdown_request(self, request: Any) -> None:
        """Close."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def _hang_up(self, client: socket.socket) -> None:
        with self._lock:
            self._open.pop(client, None)
        with suppress(OSError):  # it has ended by itself
            client.shutdown(socket.SHUT_RDWR)  # its thread notices, and closes it

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - http.server's own
        """Ignore a client that disconnected or sends nothing: that is not our error."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.error("health_failed", client=str(client_address[0]), exc_info=True)
