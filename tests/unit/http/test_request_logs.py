"""An endpoint's log lines name their request."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
import structlog
from fastapi import FastAPI

from shared.http import Router
from shared.http.call import Parts
from shared.http.places import Places
from shared.http.rate import Rate
from shared.http.tokens import Callers
from shared.settings import Settings
from shared.telemetry import logs

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def settings() -> Iterator[Settings]:
    told = {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "log_format": "json", "api_auth": "off"}
    yield Settings.model_validate(told)
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def test_a_line_names_the_request_its_key_and_its_trace(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    router = Router(scope="things")

    @router.put("/things/{number}")
    def put(number: int) -> None:
        logging.info("in a thread of its own")  # noqa: LOG015

    @router.get("/things/{number}")
    async def get(number: int) -> None:
        structlog.get_logger().info("in the loop")

    app = FastAPI()
    app.include_router(router)
    nothing = cast("Any", None)
    app.state.parts = Parts(nothing, nothing, nothing, Callers(settings, "things"), Rate(0), Places(9))
    logs.configure(settings, service="things")

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://things") as client:
            headers = {"Idempotency-Key": "once", "traceparent": f"00-{TRACE}-{'b' * 16}-01"}
            await client.put("/things/7", headers=headers)
            await client.get("/things/8")

    asyncio.run(ask())
    logging.info("after them")  # noqa: LOG015

    found = {line.pop("event"): line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    first, second, last = (found[name] for name in ("in a thread of its own", "in the loop", "after them"))
    assert (first["method"], first["path"], first["idempotency_key"], first["trace_id"]) == (
        "PUT",
        "/things/7",
        "once",
        TRACE,
    )
    assert (second["method"], second["path"], len(second["trace_id"])) == ("GET", "/things/8", 32)
    assert "idempotency_key" not in second
    assert not {"method", "path", "trace_id"} & last.keys()
