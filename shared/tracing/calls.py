"""The calls to a third party, with a span around each attempt."""

from typing import Any

from opentelemetry.trace import SpanKind, Status, StatusCode

from ..calls.declaration import Answer, Destination, Request
from ..calls.exchange import Exchange
from ..calls.queue import Due
from ..telemetry.spans import Traces, fail, text_of


class TracedExchange(Exchange):
    """The connections to one destination. Each request carries the context of its own span."""

    def __init__(self, traces: Traces, destination: Destination, settings: Any) -> None:
        super().__init__(destination, settings)
        self._traces = traces

    async def ask(self, due: Due, request: Request) -> Answer:
        """Ask, in a span."""
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "server.address": self.server[0],
            "server.port": self.server[1],
            "http.request.resend_count": due.attempts - 1,
        }
        span = self._traces.child(request.method, SpanKind.CLIENT, attributes, due.traceparent)
        try:
            answer = await super().ask(due._replace(traceparent=text_of(span, due.traceparent)), request)
            span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= 400:
                span.set_attribute("error.type", str(answer.status))
                span.set_status(Status(StatusCode.ERROR))
        except BaseException as error:
            fail(span, error)
            raise
        finally:
            span.end()
        return answer
