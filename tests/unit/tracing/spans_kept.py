"""Spans that are kept in memory."""

from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.telemetry.spans import Traces

CAUSE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of https://www.w3.org/TR/trace-context/."""
UNSAMPLED = CAUSE[:-2] + "00"


class Kept(NamedTuple):
    """The traces of a process that nobody else sees."""

    traces: Traces
    exporter: InMemorySpanExporter
    provider: TracerProvider

    def spans(self) -> dict[str, ReadableSpan]:
        """Return the spans that have ended, by name; no two of these tests share one."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


def kept() -> Kept:
    """Return new traces."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Kept(Traces(provider.get_tracer("test"), "inventory", "stock"), exporter, provider)
