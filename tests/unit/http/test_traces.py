"""The spans of requests."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from shared.http import Router, problems
from shared.http.call import CURRENT, Parts
from shared.http.places import Places
from shared.http.problems import Problem
from shared.http.rate import Rate
from shared.http.tokens import Callers
from shared.settings import Settings
from shared.trace_context import keys, of_text
from tests.unit.tracing.spans_kept import CAUSE, UNSAMPLED, kept

Ask = Callable[[httpx.AsyncClient], Awaitable[Any]]


class Served:
    """An API whose spans are kept, and the contexts that its requests would publish with."""

    def __init__(self) -> None:
        self.kept = kept()
        self.contexts: list[str | None] = []
        router = Router(scope="things")

        @router.get("/things/{number}")
        async def get(number: int, request: Request) -> None:
            self.contexts.append(CURRENT.get().traceparent)
            if number == 404:
                raise Problem(404, "no such thing")
            if number == 500:
                raise ValueError("a defect")

        provider = self.kept.provider
        self.app = FastAPI(telemetry={"tracer_provider": provider, "operation_spans": False, "metrics": False})
        self.app.include_router(router)
        problems.install(self.app, [])
        told = {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "api_auth": "off"}
        nothing, callers = cast("Any", None), Callers(Settings.model_validate(told), "things")
        parts = (nothing, nothing, nothing, callers, Rate(0), Places(9))
        self.app.state.parts = Parts(*parts, self.kept.traces.current, keys("tenant"))

    def ask(self, path: str, **headers: str) -> ReadableSpan:
        """Ask; return the request's span."""

        async def asked() -> None:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://things") as client:
                await client.get(path, headers=headers)

        asyncio.run(asked())
        return self.kept.spans()["GET /things/{number}"]


@pytest.fixture
def served() -> Served:
    return Served()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_request_continues_its_callers_trace_and_what_it_publishes_continues_it(served: Served) -> None:
    span = served.ask("/things/7", traceparent=CAUSE)
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert span.parent.span_id == int(CAUSE[36:52], 16)
    assert served.contexts == [f"{CAUSE[:36]}{span.context.span_id:016x}-01"]
    told = {"http.request.method": "GET", "http.route": "/things/{number}", "http.response.status_code": 200}
    assert told.items() <= attributes(span).items()


def test_a_request_without_a_context_begins_a_trace(served: Served) -> None:
    assert served.ask("/things/7").parent is None
    assert served.ask("/things/8", traceparent="nonsense").parent is None


def test_a_caller_that_does_not_sample_is_not_sampled(served: Served) -> None:
    with pytest.raises(KeyError):
        served.ask("/things/7", traceparent=UNSAMPLED)
    context = served.contexts[0] or ""
    assert (context[:36], context[-3:]) == (UNSAMPLED[:36], "-00")


def test_the_state_of_the_trace_and_the_chosen_baggage_go_on(served: Served) -> None:
    span = served.ask("/things/7", traceparent=CAUSE, tracestate="ot=th:c", baggage="tenant=7,secret=x")
    assert span.context.trace_state.to_header() == "ot=th:c"
    (context,) = served.contexts
    assert of_text(context)[1:] == ("ot=th:c", "tenant=7")


def test_a_request_whose_trace_is_unusable_keeps_its_baggage_alone(served: Served) -> None:
    served.ask("/things/7", traceparent="nonsense", tracestate="ot=th:c", baggage="tenant=7")
    assert of_text(served.contexts[0])[1:] == ("", "tenant=7")


def test_a_refusal_is_no_error_of_the_server_and_a_defect_is(served: Served) -> None:
    span = served.ask("/things/404")
    assert (attributes(span)["http.response.status_code"], span.status.status_code) == (404, StatusCode.UNSET)
    span = served.ask("/things/500")
    assert (attributes(span)["http.response.status_code"], span.status.status_code) == (500, StatusCode.ERROR)
    assert attributes(span)["error.type"] == "ValueError"
