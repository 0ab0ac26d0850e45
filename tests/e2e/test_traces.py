"""The trace of one order: it is placed over HTTP, and what three services do about it is one tree."""

import secrets
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from dev.servers import Servers
from dev.servers.places import HOST
from dev.system import Shape, System
from shared.testing import outside, until


class Collector:
    """What a collector does: it takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        """The service of each, and the span."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in of_scope.spans]

    def trace(self, trace_id: str) -> dict[bytes, tuple[str, Span]]:
        """Return the spans of one trace, by id."""
        return {span.span_id: (who, span) for who, span in list(self.spans) if span.trace_id.hex() == trace_id}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def way(trace: dict[bytes, tuple[str, Span]], span_id: bytes) -> list[str]:
    """Return what led to a span, from the root on."""
    found: list[str] = []
    while span_id in trace:
        who, span = trace[span_id]
        found.append(f"{who}: {span.name}")
        span_id = span.parent_span_id
    return found[::-1]


def test_an_order_is_one_trace_from_its_request_to_its_confirmation(servers: Servers, collector: Collector) -> None:
    settings = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "HTTP_BAGGAGE_KEYS": "tenant",
    }
    shape = Shape(partitions=1, workers=1, callers=1, settings=settings)
    trace_id, above = secrets.token_hex(16), secrets.token_hex(8)
    with System(servers, shape) as system, httpx.Client(trust_env=False) as client:

        def ask(method: str, service: str, path: str, body: object, **headers: str) -> httpx.Response:
            headers = {"Idempotency-Key": str(uuid.uuid4()), **headers}
            answer = client.request(method, system.url(service) + path, json=body, headers=headers)
            assert answer.is_success, answer.text
            return answer

        account, sku = f"a-{trace_id}", f"s-{trace_id}"
        ask("PUT", "inventory", f"/stock/{sku}", {"price": 100, "currency": "EUR"})
        ask("POST", "inventory", f"/stock/{sku}/receipts", {"quantity": 5})
        ask("PUT", "payment", f"/accounts/{account}", {"currency": "EUR"})
        ask("POST", "payment", f"/accounts/{account}/deposits", {"amount": 10_000, "currency": "EUR"})
        order = {"account": account, "lines": [{"sku": sku, "quantity": 1}]}
        said = {"tracestate": "vendor=1", "baggage": "tenant=eu-7,secret=x"}
        parent = f"00-{trace_id}-{above}-01"
        place = ask("POST", "order", "/orders", order, traceparent=parent, **said).headers["Location"]

        def confirmed() -> bool:
            return bool(client.get(system.url("order") + place).json()["state"] == "CONFIRMED")

        def ended() -> bool:
            names = [f"{who}: {span.name}" for who, span in collector.trace(trace_id).values()]
            return "inventory: handle PaymentCaptured" in names and "payment: POST" in names

        until(confirmed, "the order is confirmed")
        until(ended, "its spans have arrived")
        for topic in ("order.events", "inventory.events", "payment.events"):
            headers = [record.headers for record in outside.read(servers.kafka.bootstrap, topic, shape.partitions)]
            beside = {(h.get("tracestate"), h.get("baggage")) for h in headers if trace_id in h.get("traceparent", "")}
            assert beside == {("vendor=1", "tenant=eu-7")}, topic

    trace = collector.trace(trace_id)
    (root,) = [span for _, span in trace.values() if span.parent_span_id.hex() == above]
    assert root.name == "POST /orders"
    assert all(span.span_id == root.span_id or span.parent_span_id in trace for _, span in trace.values())
    (called,) = [span for who, span in trace.values() if (who, span.name) == ("payment", "POST")]
    assert way(trace, called.span_id) == [
        "order: POST /orders",
        "inventory: handle OrderPlaced",
        "payment: handle StockReserved",
        "payment: POST",
    ]
    names = {f"{who}: {span.name}" for who, span in trace.values()}
    assert "order: handle PaymentCaptured" in names

    linked = {
        f"{who}: {span.name}"
        for who, span in collector.spans
        for link in span.links
        if link.trace_id.hex() == trace_id and span.trace_id.hex() != trace_id
    }
    assert {"order: send order.events", "inventory: process order.events", "payment: send payment.events"} <= linked
