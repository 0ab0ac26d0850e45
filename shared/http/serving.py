"""Serves the HTTP API of a service until it is asked to stop."""

import socket
import sys
from typing import Any

import uvicorn

from shared.errors import Refused
from shared.settings import Settings

KEEP_ALIVE_SECONDS = 30


def serve(application: Any, settings: Settings) -> None:
    """Run the API on HTTP_HOST and HTTP_PORT; on SIGTERM finish what is under way, within GRACE_SECONDS. Raises
    `Refused` for an address that cannot be listened on.
    """
    config = uvicorn.Config(
        application,
        log_level=settings.log_level,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.grace_seconds),
        server_header=False,
    )
    server = uvicorn.Server(config)
    with _listening(settings.http_host, settings.http_port) as listening:
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)  # the log says why


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise Refused(f"HTTP_HOST, HTTP_PORT: cannot listen on {host}:{port}: {error.strerror}") from error
