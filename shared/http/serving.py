"""Serves the HTTP API of a service until told to stop."""

import signal
import socket
import sys
from typing import Any

import uvicorn

from ..errors import Misconfigured
from ..settings import Settings
from ..telemetry.metrics import log
from . import connections


def serve(application: Any, settings: Settings) -> None:
    """Run the API on HTTP_HOST and HTTP_PORT; on SIGTERM finish open requests, within SHUTDOWN_GRACE_SECONDS. Raises
    `Misconfigured` for an address that cannot be listened on.
    """
    limits = connections.limits(settings.http_request_seconds_max)
    config = uvicorn.Config(
        application,
        http=connections.limited(limits),
        ws="none",
        backlog=limits.backlog,
        log_config=None,
        access_log=False,
        timeout_keep_alive=int(connections.IDLE_SECONDS),
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
        server_header=False,
    )
    server = uvicorn.Server(config)
    # While it runs, uvicorn has its own handlers. Before that, these record the signal; afterwards uvicorn raises it
    # again, which without them would end the process as if it had not finished.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    with listening(settings.http_host, settings.http_port) as bound:
        log.info("api_listening", host=settings.http_host, port=settings.http_port)
        server.run(sockets=[bound])
    if not server.started:
        sys.exit(1)  # the log says why


def listening(host: str, port: int, names: str = "HTTP_HOST, HTTP_PORT") -> socket.socket:
    """Listen on an address. Raises `Misconfigured`, with the `names` of the settings that it is from."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # a name too long for DNS cannot be encoded
        reason = error.strerror if isinstance(error, OSError) else "this is not a valid host name"
        raise Misconfigured(f"{names}: cannot listen on {host[:100]}:{port}: {reason}") from error
