"""Serves the HTTP API of a service until it is asked to stop."""

from typing import Any

import uvicorn

from shared.settings import Settings

KEEP_ALIVE_SECONDS = 30


def serve(application: Any, settings: Settings) -> None:
    """Run the API on HTTP_HOST and HTTP_PORT; on SIGTERM finish what is under way, within GRACE_SECONDS."""
    uvicorn.run(
        application,
        host=settings.http_host,
        port=settings.http_port,
        log_level=settings.log_level,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.grace_seconds),
        server_header=False,
    )
