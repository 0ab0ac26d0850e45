"""An endpoint that catches a database error and goes on: PostgreSQL has undone everything, and so says the answer."""

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.order import api as order_api
from services.order.container import OrderContainer
from services.order.models import Order
from shared.http import ResponseBody, Router, Transaction, guard
from shared.settings import Settings
from shared.testing import until
from shared.testing.api import Api, served
from tests.integration.api.test_problems import ORDER, problem


class Caught(ResponseBody):
    """What the endpoints below return."""

    said: str = "stored"


def change(session: Transaction, order_id: str) -> Caught:
    """Change an order; then fail, and go on."""
    session.lock_or_404(Order, order_id).account = "eve"
    session.flush()
    with suppress(DBAPIError):
        session.execute(text("SELECT 1 / 0"))
    return Caught()


@pytest.fixture(scope="module")
def careless(settings: Settings) -> Iterator[Api]:
    router = Router(scope="careless")

    @router.put("/caught/{order_id}")
    def put(order_id: str, session: Transaction) -> Caught:
        return change(session, order_id)

    @router.post("/caught/{order_id}")
    def post(order_id: str, session: Transaction) -> Caught:
        return change(session, order_id)

    @router.put("/within/{order_id}")
    def within(order_id: str, session: Transaction) -> Caught:
        session.lock_or_404(Order, order_id).account = "eve"
        with suppress(DBAPIError), session.begin_nested():
            session.execute(text("SELECT 1 / 0"))
        return Caught()

    with pytest.MonkeyPatch.context() as patch:
        router.include_router(order_api.router)
        patch.setattr(order_api, "router", router)
        with served(OrderContainer, settings) as api:
            yield api


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_what_is_undone_is_not_answered_as_done(careless: Api, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    log = SimpleNamespace(error=lambda _event, *, exc_info, **_: logged.append(str(exc_info)))
    monkeypatch.setattr(guard, "_log", log)
    order = careless.post("/orders", json=ORDER).json()["id"]

    ask = careless.put if method == "PUT" else careless.post
    problem(ask(f"/caught/{order}"), 500)

    assert careless.sql("SELECT account FROM orders WHERE id = %s", order) == [("ada",)]
    until(lambda: logged != [], "the failure is logged")
    assert "a statement failed" in logged[0]
    assert "begin_nested" in logged[0]


def test_what_may_fail_can_be_undone_alone(careless: Api) -> None:
    order = careless.post("/orders", json=ORDER).json()["id"]
    assert careless.put(f"/within/{order}").status_code == 200
    assert careless.sql("SELECT account FROM orders WHERE id = %s", order) == [("eve",)]
