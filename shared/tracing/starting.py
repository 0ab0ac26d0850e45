"""Starts the traces of a process. Only the API makes spans; the SDK, which sends them, is a process's own choice."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider, set_tracer_provider
from sqlalchemy import Engine

from ..service import Service
from ..settings import Settings
from ..telemetry.spans import Traces

EXPORT_SECONDS = 5
"""A collector that does not answer for so long gets nothing; a process that ends waits no longer for it."""

NAME = "exactly-once"


def start(settings: Settings, service: Service, engine: Engine) -> Traces:
    """Return what makes spans: by the provider that the process has, such as that of `opentelemetry-instrument`, or by
    a new one. That sends them where the settings say, on a thread of its own, and the rest when the process ends.

    Everything else the SDK reads itself: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, and
    more (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
    """
    if isinstance(get_tracer_provider(), ProxyTracerProvider):
        provider = TracerProvider(resource=Resource.create({"service.name": service.name}))
        provider.add_span_processor(BatchSpanProcessor(_exporter(settings)))
        set_tracer_provider(provider)
    return Traces(get_tracer_provider().get_tracer(NAME), service.name, engine.url.database or service.name)


def _exporter(settings: Settings) -> SpanExporter:
    if settings.otel_traces_exporter == "console":
        return ConsoleSpanExporter()
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
