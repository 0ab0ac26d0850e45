"""An API process as an operator sees it, also while no worker publishes its events."""

from collections.abc import Callable
from typing import Any

import pytest

from services.order.container import OrderContainer
from shared.settings import Settings
from shared.testing.api import Api

ORDER = {"account": "ada", "lines": [{"sku": "tea", "quantity": 2}]}


@pytest.fixture(autouse=True)
def _nothing_waits(orders: Api) -> None:
    orders.sql("DELETE FROM exactly_once_outbox")


def test_ready_tells_how_long_events_wait(orders: Api) -> None:
    idle = orders.get("/health/ready")
    assert idle.status_code == 200
    assert idle.json() == {
        "status": "ready", "outbox_rows_at_most": 0, "outbox_oldest_seconds": 0.0, "migrations_pending": [],
    }  # fmt: skip
    for _ in range(3):
        orders.post("/orders", json=ORDER)
    orders.sql(
        "UPDATE exactly_once_outbox SET decided_at = decided_at - interval '1 hour' WHERE id = (SELECT max(id) "
        "FROM exactly_once_outbox)"
    )
    orders.sql(
        "UPDATE exactly_once_outbox SET decided_at = decided_at - interval '1 hour' WHERE id = (SELECT min(id) "
        "FROM exactly_once_outbox)"
    )
    waiting = orders.get("/health/ready").json()
    assert waiting["outbox_rows_at_most"] >= 3
    assert 3_600 <= waiting["outbox_oldest_seconds"] < 3_700


def test_a_schema_that_lacks_a_migration_is_not_ready(orders: Api) -> None:
    ((present,),) = orders.sql("SELECT version_num FROM exactly_once_schema_version")
    orders.sql("UPDATE exactly_once_schema_version SET version_num = '0000'")
    behind = orders.get("/health/ready")
    orders.sql("UPDATE exactly_once_schema_version SET version_num = '9999'")
    ahead = orders.get("/health/ready")
    orders.sql("UPDATE exactly_once_schema_version SET version_num = %s", present)
    assert (behind.status_code, ahead.status_code) == (503, 200)
    assert "python -m services.order migrate" in behind.json()["detail"]


def test_metrics_name_the_route_and_not_the_path(orders: Api) -> None:
    placed = orders.post("/orders", json=ORDER)
    orders.get(placed.headers["location"])
    orders.get("/some/where/else")
    metrics = orders.get("/metrics").text
    assert 'exactly_once_http_request_seconds_count{method="POST",route="/orders",status="201"}' in metrics
    assert 'exactly_once_http_request_seconds_count{method="GET",route="/orders/{order_id}",status="200"}' in metrics
    assert 'exactly_once_http_request_seconds_count{method="GET",route="(none)",status="404"}' in metrics
    assert "exactly_once_outbox_oldest_seconds" in metrics
    assert "/some/where/else" not in metrics


def test_orders_are_refused_while_too_many_events_wait(
    orders: Api, settings: Settings, serve: Callable[[Any, Settings], Api]
) -> None:
    for _ in range(3):
        orders.post("/orders", json=ORDER)
    full = serve(OrderContainer, settings.model_copy(update={"outbox_rows_max": 2}))
    before = orders.sql("SELECT count(*) FROM orders")
    refused = full.post("/orders", json=ORDER, headers={"Idempotency-Key": "while-full"})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert orders.sql("SELECT count(*) FROM orders") == before
    assert full.get("/orders").status_code == 200

    roomy = serve(OrderContainer, settings.model_copy(update={"outbox_rows_max": 3}))
    assert roomy.post("/orders", json=ORDER, headers={"Idempotency-Key": "while-full"}).status_code == 201


def test_an_event_that_is_stuck_does_not_look_like_a_thousand(
    orders: Api, settings: Settings, serve: Callable[[Any, Settings], Api]
) -> None:
    """Ids far apart exceed the cheap bound; only rows that exist count."""
    for _ in range(5):
        orders.post("/orders", json=ORDER)
    orders.sql(
        "DELETE FROM exactly_once_outbox WHERE id NOT IN ((SELECT min(id) FROM exactly_once_outbox), (SELECT max(id) "
        "FROM exactly_once_outbox))"
    )
    api = serve(OrderContainer, settings.model_copy(update={"outbox_rows_max": 2}))
    ready = api.get("/health/ready")
    assert ready.json().get("outbox_rows_at_most") == 5, ready.text
    assert api.post("/orders", json=ORDER).status_code == 201


def test_the_description_tells_every_refusal_as_a_problem(orders: Api, stock: Api, accounts: Api) -> None:
    for api in (orders, stock, accounts):
        paths = api.get("/openapi.json").json()["paths"]
        for path, operations in paths.items():
            for method, operation in operations.items():
                errors = {status: a for status, a in operation["responses"].items() if status >= "400"}
                assert all(list(answer["content"]) == ["application/problem+json"] for answer in errors.values())
                if not path.startswith("/health"):
                    assert set(errors) >= {"422", "500", "503"}, (method, path)
                if method == "post":
                    assert set(errors) >= {"400", "409", "413"}, path
                    assert "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}
