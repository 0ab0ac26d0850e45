"""A GET reads: PostgreSQL refuses the rest. A page of a join has each row once."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, select

from services.order import api as order_api
from services.order.container import OrderContainer
from services.order.events import OrderConfirmed
from services.order.models import Order, OrderLine
from shared.http import Router, Transaction, guard
from shared.settings import Settings
from shared.testing import until
from shared.testing.api import Api, served
from tests.integration.api.test_problems import problem

LINES = [{"sku": "tea", "quantity": 1}, {"sku": "cup", "quantity": 1}]
ORDER = {"account": "ada", "lines": LINES}


@pytest.fixture(scope="module")
def careless(settings: Settings) -> Iterator[Api]:
    """The API of an author who writes in a GET."""
    router = Router(scope="careless")

    @router.get("/changed/{order_id}")
    def change(order_id: str, session: Transaction) -> str:
        session.get_or_404(Order, order_id).account = "bob"
        return "changed"

    @router.get("/published/{order_id}")
    def publish(order_id: str, session: Transaction) -> str:
        order = session.get_or_404(Order, order_id)
        session._held.hold(order)
        session.publish(OrderConfirmed(order_id=order_id, amount=1, currency="EUR"))
        return "published"

    @router.get("/locked/{order_id}")
    def lock(order_id: str, session: Transaction) -> str:
        session.lock_or_404(Order, order_id)
        return "locked"

    @router.put("/put/{order_id}")
    def put(order_id: str, session: Transaction) -> str:
        session.lock_or_404(Order, order_id).account = "eve"
        return "put"

    with pytest.MonkeyPatch.context() as patch:
        router.include_router(order_api.router)
        patch.setattr(order_api, "router", router)
        with served(OrderContainer, settings) as api:
            yield api


@pytest.mark.parametrize("what", ["changed", "published", "locked"])
def test_a_get_that_writes_has_no_effect_and_says_so(careless: Api, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    log = SimpleNamespace(error=lambda _event, *, exc_info, **_: logged.append(str(exc_info)))
    monkeypatch.setattr(guard, "_log", log)
    order = careless.post("/orders", json=ORDER).json()["id"]
    problem(careless.get(f"/{what}/{order}"), 500)
    until(lambda: logged != [], "the failure is logged")
    assert logged[0].startswith(f"/{what}/{{order_id}}, ")
    assert "writes, publishes or locks a row, and a GET only reads: make it a POST or a PUT" in logged[0]
    assert careless.sql("SELECT account FROM orders WHERE id = %s", order) == [("ada",)]
    assert careless.sql("SELECT count(*) FROM exactly_once_outbox WHERE key = %s", order) == [(1,)]


def test_a_connection_that_has_read_writes_again(careless: Api) -> None:
    """More requests than connections, at once."""
    order = careless.post("/orders", json=ORDER).json()["id"]

    def read() -> None:
        assert careless.get(f"/orders/{order}").status_code == 200

    threads = [threading.Thread(target=read) for _ in range(30)]
    for thread in threads:
        thread.start()
    answers = [careless.put(f"/put/{order}", json={}).status_code for _ in range(30)]
    for thread in threads:
        thread.join()
    assert set(answers) == {200}
    assert careless.sql("SELECT account FROM orders WHERE id = %s", order) == [("eve",)]


def test_a_page_of_a_join_has_each_row_once(careless: Api, settings: Settings) -> None:
    placed = [careless.post("/orders", json=ORDER).json()["id"] for _ in range(3)]
    engine = create_engine(settings.dsn("order"))
    wanted = select(Order).join(OrderLine, OrderLine.order_id == Order.id).where(OrderLine.sku.in_(["tea", "cup"]))
    with Transaction(engine) as session:
        first = session.page(wanted, None, 2)
        second = session.page(wanted, first.next, 1)
    engine.dispose()
    assert [order.id for order in (*first.rows, *second.rows)] == placed[::-1]
