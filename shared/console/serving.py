"""`console`: serves the page for operators until told to stop."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from ..http import connections
from ..http.serving import listening
from ..operations.output import echo
from ..telemetry.logs import log
from .access import LASTS_SECONDS
from .application import make_application
from .board import Board
from .estate import Absent, find

GRACE_SECONDS = 5
"""How long open pages have to end."""


def serve(container: Any, wanted: Sequence[str] | None) -> None:
    """Run the console on CONSOLE_HOST and CONSOLE_PORT. Raises `Misconfigured`."""
    settings, service = container.settings(), container.service()
    found = find(container, wanted)
    board = Board(found, Path(settings.console_beside) if settings.console_beside else None)
    servers: list[uvicorn.Server] = []
    application = make_application(
        board, settings, service.name, stopping=lambda: any(server.should_exit for server in servers)
    )
    limits = connections.limits(LASTS_SECONDS)  # an open window has one answer for as long as its login lasts
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            http=connections.limited(limits),
            ws="none",
            backlog=limits.backlog,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
        )
    )
    servers.append(server)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    with listening(settings.console_host, settings.console_port, "CONSOLE_HOST, CONSOLE_PORT") as socket:
        port = socket.getsockname()[1]
        host = f"[{settings.console_host}]" if ":" in settings.console_host else settings.console_host
        for one in found:
            if isinstance(one, Absent):
                log.warning("console_without", service=one.name, detail=one.why)
        echo(f"console: http://{host}:{port}/")
        log.info("console_listening", host=settings.console_host, port=port, services=[one.name for one in found])
        server.run(sockets=[socket])
    if not server.started:
        sys.exit(1)  # the log says why
