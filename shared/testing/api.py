"""A service's API, served by uvicorn on a free port, and a client that can query its database."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import uvicorn
from dependency_injector import providers

from ..settings import Settings
from .waiting import until

START_SECONDS_MAX = 60.0


class Api(httpx.Client):
    """A client of one service that can query its database. A POST without an Idempotency-Key gets a new one."""

    def __init__(self, base_url: str, dsn: str) -> None:
        super().__init__(base_url=base_url, timeout=30)
        self.dsn = dsn

    def post(self, url: Any, **more: Any) -> httpx.Response:
        headers = {"Idempotency-Key": uuid.uuid4().hex, **more.pop("headers", {})}
        return super().post(url, headers=headers, **more)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement in a separate transaction; return its rows."""
        with psycopg.connect(self.dsn) as connection:
            found = connection.execute(statement.encode(), values)
            return found.fetchall() if found.description else []

    @contextmanager
    def locked(self, table: str, row: str) -> Iterator[None]:
        """Hold a row locked, as another client's open transaction would."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(f"SELECT FROM {table} WHERE id = %s FOR UPDATE".encode(), (row,))
            yield


@contextmanager
def served(container_class: type[Any], settings: Settings) -> Iterator[Api]:
    """Serve the API of a service on a free port."""
    container = container_class()
    container.settings.override(providers.Object(settings))
    config = uvicorn.Config(container.application(), port=0, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS_MAX
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    dsn = settings.migration_dsn(container.service().name).replace("+psycopg", "")
    try:
        with Api(f"http://127.0.0.1:{port}", dsn) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(START_SECONDS_MAX)
        # A request that was given up runs on in its thread. A connection returned to a disposed pool stays open.
        until(lambda: container.engine().pool.checkedout() == 0, "every connection is given back")
        container.engine().dispose()
