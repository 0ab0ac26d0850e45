"""The HTTP application of every service: its own routes, health, metrics, and one form of error answers."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import Engine, QueuePool
from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import BaseRoute

from .. import trace_context
from ..errors import Misconfigured
from ..postgres.backlog import Backlog, Waiting, look
from ..postgres.engine import Requests
from ..postgres.migrations import behind, refuse_behind
from ..postgres.outbox import Outbox
from ..service import Service
from ..settings import Settings
from ..telemetry import outages
from . import pages, problems
from .call import Parts
from .guard import Guard
from .places import Places
from .problems import busy, documented
from .rate import Rate
from .router import KEY_PARAMETER, Route
from .tokens import Callers

if TYPE_CHECKING:
    from ..telemetry.spans import Traces

DEFAULT_RESPONSES = (401, 403, 408, 413, 422, 429, 500, 503)
"""Any endpoint may return these."""


class Alive(BaseModel):
    """The process answers."""

    status: str = "alive"


class Ready(BaseModel):
    """The service can take requests."""

    status: str = "ready"
    outbox_rows_at_most: int
    outbox_oldest_seconds: float
    """Grows while no worker is up: requests are still accepted, and what they publish waits."""
    migrations_pending: list[str]


def make_application(
    *,
    routes: str,
    service: Service,
    settings: Settings,
    engine: Engine,
    outbox: Outbox,
    requests: Requests,
    traces: "Traces | None" = None,
) -> FastAPI:
    """Assemble the application of `service`; `routes` is its router's `module:name`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _threads(engine)
        yield

    app = FastAPI(
        title=f"{service.name} service",
        description="Errors are problems (RFC 9457). Every POST needs an `Idempotency-Key`.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # The request's span alone: what runs in it is in our own, and its exceptions are in our log and metrics.
        telemetry={"tracing": traces is not None, "operation_spans": False, "metrics": False, "logs": False},
    )
    app.state.parts = Parts(
        requests,
        outbox,
        Backlog(settings.outbox_rows_max),
        Callers(settings, service.name),
        Rate(settings.http_requests_per_second_max),
        Places(_threads(engine)),
        traces.current if traces is not None else None,
        trace_context.keys(settings.http_baggage_keys),
    )
    app.add_middleware(
        Guard, body_bytes_max=settings.http_body_bytes_max, seconds_max=settings.http_request_seconds_max
    )
    module, _, name = routes.partition(":")
    own, operating = getattr(import_module(module), name), _operating(service, engine)
    endpoints = list(_endpoints(own.routes, routes))
    problems.install(app, [*endpoints, *operating.routes])
    app.include_router(own, responses=documented(*DEFAULT_RESPONSES))
    app.include_router(operating)
    pages.install(app)
    _complete(app.openapi())
    return app


def _endpoints(found: Iterable[BaseRoute], routes: str) -> Iterator[Route]:
    """Yield the routes of a router and of those that it includes. Raises `TypeError` for one that checks no token."""
    for route in found:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from _endpoints(included.routes, routes)
        elif isinstance(route, Route):
            yield route
        else:
            path = getattr(route, "path", type(route).__name__)
            raise TypeError(
                f"{routes} has {path}, which is not made by a `Router` and would be served without a token: write "
                f"`@router.get(...)` of a `Router(scope=...)`, with `scope=None` if anyone may call it"
            )


def _complete(schema: dict[str, Any]) -> None:
    """Add to the OpenAPI schema what the framework does not know; it keeps the schema for its page."""
    schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for operations in schema["paths"].values():
        for method, operation in operations.items():
            problems.describe(operation)
            if method == "post":
                operation.setdefault("parameters", []).append(KEY_PARAMETER)


def _threads(engine: Engine) -> int:
    """Return how many requests may run at once: one per connection, except the one for health and metrics. So requests
    wait here, not for the pool.
    """
    return max(engine.pool.size() - 1, 1) if isinstance(engine.pool, QueuePool) else 1


def _operating(service: Service, engine: Engine) -> APIRouter:
    router = APIRouter()
    # Its own thread: health must answer even while every other thread waits for the database.
    limiter = CapacityLimiter(1)

    def ready() -> Ready:
        refuse_behind(engine, service.name)
        with engine.connect() as connection:
            waiting = look(connection)
            pending = behind(connection, service.name)
        outages.DATABASE.answered("requests")
        return Ready(
            outbox_rows_at_most=waiting.rows_at_most,
            outbox_oldest_seconds=round(waiting.oldest_seconds, 3),
            migrations_pending=pending,
        )

    def measure() -> Waiting | None:
        try:
            with engine.connect() as connection:
                found = look(connection)
        except SQLAlchemyError:
            return None
        outages.DATABASE.answered("requests")
        return found

    @router.get("/health/live")
    async def health_live() -> Alive:
        """Report that the process is alive. It asks no server: one that is down is no reason to restart this."""
        return Alive()

    @router.get("/health/ready", responses=documented(503))
    async def health_ready() -> Ready:
        """Report whether requests can be served, and how far behind the workers are."""
        try:
            return await anyio.to_thread.run_sync(ready, limiter=limiter)
        except Misconfigured as error:
            raise busy(str(error)) from error

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        await anyio.to_thread.run_sync(measure, limiter=limiter)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
