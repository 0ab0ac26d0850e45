"""What traces cost a worker: events per second with them and without, by turns, on one topic and equal databases."""

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dev.bench.inventory import Inventory
from dev.bench.orders import fill
from dev.bench.report import Figure
from dev.bench.throughput import drain
from dev.servers import Echo, Servers
from dev.servers.places import HOST

SECTION = "traces"
ROUNDS = 3
"""Of each. A busy machine slows one of them, and the median is of another."""


def measure(servers: Servers, report: Echo, *, events: int) -> Iterator[Figure]:
    """Let one worker drain the topic again and again; every order asks to be sampled."""
    inventory = Inventory(servers)
    report(f"traces: filling order.events with {events:,} orders ...")
    fill(inventory.database("traces"), events)
    rates: dict[str, list[float]] = {"off": [], "on": []}
    with collector() as url:
        ways = {"off": {}, "on": {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": url}}
        for n in range(ROUNDS):
            for way, variables in ways.items():
                report(f"traces: one worker, {way}, {n + 1} of {ROUNDS} ...")
                settings = inventory.database(f"traces_{way}_{n}")
                rates[way].append(drain(inventory, settings, events, **variables))
                inventory.forget_group()
    off, on = (statistics.median(rates[way]) for way in ways)
    yield Figure(SECTION, "one inventory worker drains order.events, traces off, median", off, "events/s")
    yield Figure(SECTION, "the slowest of these / the fastest", min(rates["off"]) / max(rates["off"]), "")
    yield Figure(SECTION, "every event sampled and sent by OTLP, median", on, "events/s")
    yield Figure(SECTION, "on / off", on / off, "")


@contextmanager
def collector() -> Iterator[str]:
    """Take what a process sends, and drop it; give the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
