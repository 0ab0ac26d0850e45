"""The cost of a request: round trips to PostgreSQL, and what stays in Python's memory. And a connection that PostgreSQL
closed while it was idle.
"""

import asyncio
import gc
import math
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from dependency_injector import providers
from sqlalchemy import Engine

from services.order.container import OrderContainer
from services.order.models import Order, OrderLine
from shared.http import Transaction
from shared.settings import Settings
from shared.testing import until
from tests.integration.api.test_problems import LINE
from tests.round_trips import counted

ORDER = {"account": "ada", "lines": [LINE, {"sku": "cup", "quantity": 2}]}


class Inside:
    """The API in this process, whose connection can be watched."""

    def __init__(self, settings: Settings) -> None:
        container = OrderContainer()
        container.settings.override(providers.Object(settings))
        self.app = container.application()
        self.app.state.parts.backlog._next = math.inf  # once a second, one of the requests looks at the outbox
        self.engine: Engine = container.engine()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://orders") as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())

    def place(self) -> httpx.Response:
        return self.ask("POST", "/orders", json=ORDER, headers={"Idempotency-Key": uuid.uuid4().hex})

    def session(self) -> psycopg.Connection[Any]:
        """Return the only connection that a single request after another needs."""
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        return raw


@pytest.fixture
def orders(settings: Settings) -> Iterator[Inside]:
    made = Inside(settings)
    yield made
    made.engine.dispose()


def test_placing_an_order_takes_four_round_trips(orders: Inside) -> None:
    """BEGIN and the key; the order; its lines; the event, the answer and COMMIT."""
    for _ in range(2):
        with counted(orders.session()) as trips:
            assert orders.place().status_code == 201
        assert 0 < trips.number <= 4, trips.messages
        for _ in range(7):  # the driver then prepares the statements, each once in a session
            assert orders.place().status_code == 201


def test_a_repetition_takes_three_and_a_reading_request_four(orders: Inside) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    placed = orders.ask("POST", "/orders", json=ORDER, headers=key)
    with counted(orders.session()) as trips:
        assert orders.ask("POST", "/orders", json=ORDER, headers=key).content == placed.content
    assert 0 < trips.number <= 3, trips.messages
    with counted(orders.session()) as trips:
        assert orders.ask("GET", placed.headers["location"]).json() == placed.json()
    assert 0 < trips.number <= 4, trips.messages


def test_no_session_and_no_row_is_left_to_the_garbage_collector(orders: Inside) -> None:
    def living() -> int:
        return sum(type(one) in {Transaction, Order, OrderLine} for one in gc.get_objects())

    assert orders.place().status_code == 201
    gc.collect()
    gc.disable()
    try:
        before = living()
        for _ in range(3):
            assert orders.place().status_code == 201
        assert living() == before
    finally:
        gc.enable()


def test_a_connection_that_postgresql_closed_while_it_was_idle_is_replaced(orders: Inside, settings: Settings) -> None:
    pid = orders.session().info.backend_pid
    with psycopg.connect(settings.migration_dsn("order").replace("+psycopg", ""), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        until(lambda: other.execute(alive, (pid,)).fetchone() == (0,), "it is closed")
    assert orders.place().status_code == 201
    assert orders.session().info.backend_pid != pid
