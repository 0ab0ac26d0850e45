"""The trace of one order: it is placed over HTTP, and what three services do about it is one tree."""

import secrets

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from shared.testing import until
from tests.e2e.conftest import Shop


def way(trace: dict[bytes, tuple[str, Span]], span_id: bytes) -> list[str]:
    """Return what led to a span, from the root on."""
    found: list[str] = []
    while span_id in trace:
        who, span = trace[span_id]
        found.append(f"{who}: {span.name}")
        span_id = span.parent_span_id
    return found[::-1]


def test_an_order_is_one_trace_from_its_request_to_its_confirmation(shop: Shop) -> None:
    trace_id, above = secrets.token_hex(16), secrets.token_hex(8)
    order = shop.customer.order(100, traceparent=f"00-{trace_id}-{above}-01")

    def inside() -> set[str]:
        return {f"{who}: {span.name}" for who, span in shop.collector.trace(trace_id).values()}

    def linked() -> set[str]:
        return {
            f"{who}: {span.name}"
            for who, span in list(shop.collector.spans)
            for link in span.links
            if link.trace_id.hex() == trace_id and span.trace_id.hex() != trace_id
        }

    until(lambda: shop.customer.state(order) == "CONFIRMED", "the order is confirmed")
    until(
        lambda: {"order: handle PaymentCaptured", "inventory: handle PaymentCaptured", "payment: POST"} <= inside(),
        "its spans have arrived",
    )
    until(
        lambda: (
            {"order: send order.events", "inventory: process order.events", "payment: send payment.events"} <= linked()
        ),
        "the spans of the batches that it was in are linked to it",
    )

    trace = shop.collector.trace(trace_id)
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
