"""An API process without a database, for tests of its connections: `python -m tests.unit.http.lonely_api PORT FILES`,
where FILES is how many files it may open; `quick` after it makes every limit short, and `pure` hides the parser and the
loop that are in C.
"""

import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from shared.http import connections
from shared.http.guard import Guard
from shared.http.serving import serve
from shared.settings import Settings
from shared.telemetry import metrics

LARGE = 20_000_000
"""Bytes of an answer that no buffer of a system takes whole."""


def application(seconds_max: float) -> FastAPI:
    """Return an application that reads each body."""
    app = FastAPI()
    app.add_middleware(Guard, body_bytes_max=1024, seconds_max=seconds_max)

    @app.get("/")
    async def here() -> str:
        return "here"

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * LARGE)

    @app.get("/pieces")
    async def pieces() -> StreamingResponse:
        def made() -> Iterator[bytes]:
            for _ in range(LARGE // 100_000):
                yield b"x" * 100_000

        return StreamingResponse(made())

    @app.post("/")
    async def read(request: Request) -> int:
        return len(await request.body())

    return app


def main() -> None:
    """Serve until asked to stop."""
    port, files = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    settings = Settings.model_construct(http_port=port, shutdown_grace_seconds=1.0, http_request_seconds_max=60.0)
    if "pure" in sys.argv:
        hidden: Any = {"httptools": None, "uvloop": None}
        sys.modules.update(hidden)
    if "quick" in sys.argv:
        quick = replace(connections.limits(0.5), work_seconds=1.0, head_seconds=0.5, idle_seconds=0.5)
        connections.limits = lambda request_seconds_max: quick
        settings = settings.model_copy(update={"http_request_seconds_max": 0.5})
    metrics.configure(settings)
    serve(application(settings.http_request_seconds_max), settings)


if __name__ == "__main__":
    main()
