"""The order service's routes, against its real database."""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from services.order.container import OrderContainer
from shared.settings import Settings
from shared.testing.api import Api

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def body(account: str = "ada") -> dict[str, Any]:
    return {"account": account, "lines": [{"sku": "tea", "quantity": 2}, {"sku": "cup", "quantity": 1}]}


def place(orders: Api, account: str = "ada", **headers: str) -> str:
    answer = orders.post("/orders", json=body(account), headers=headers)
    assert answer.status_code == 201
    return str(answer.json()["id"])


def published(orders: Api, order_id: str) -> list[tuple[Any, ...]]:
    return orders.sql(
        "SELECT event_type, convert_from(data, 'UTF8'), traceparent, lane FROM exactly_once_outbox WHERE key = %s "
        "ORDER BY id",
        order_id,
    )


def force(orders: Api, order_id: str, state: str) -> None:
    """Set an order to a state that only handlers reach."""
    reason = "OUT_OF_STOCK" if state == "REJECTED" else None
    orders.sql(
        "UPDATE orders SET state = %s, amount = 7, currency = 'EUR', reason = %s WHERE id = %s", state, reason, order_id
    )


def test_an_order_is_placed_and_found(orders: Api) -> None:
    answer = orders.post("/orders", json=body())
    placed = answer.json()
    assert answer.status_code == 201
    assert uuid.UUID(placed["id"]).version == 7
    assert (placed["state"], placed["amount"], placed["currency"], placed["reason"]) == ("PLACED", None, None, None)
    assert placed["lines"] == body()["lines"]
    assert orders.get(answer.headers["location"]).json() == placed


def deadlines(orders: Api, order_id: str) -> list[tuple[Any, ...]]:
    return orders.sql(
        "SELECT event_type, extract(epoch FROM due - scheduled_at)::int, xmin FROM exactly_once_schedule "
        "WHERE key = %s",
        order_id,
    )


def test_an_order_has_a_deadline_until_it_is_cancelled(orders: Api) -> None:
    order_id = place(orders, Traceparent=TRACE)
    ((kind, seconds, transaction),) = deadlines(orders, order_id)
    assert kind == "PaymentOverdue"
    assert 890 <= seconds <= 900
    assert orders.sql("SELECT xmin FROM orders WHERE id = %s", order_id) == [(transaction,)]
    assert orders.post(f"/orders/{order_id}/cancel").status_code == 200
    assert deadlines(orders, order_id) == []


def test_what_is_placed_is_published_in_the_same_transaction(orders: Api) -> None:
    order_id = place(orders, "bob")
    ((kind, data, _, lane),) = published(orders, order_id)
    assert kind == "OrderPlaced"
    assert json.loads(data) == {"order_id": order_id, **body("bob")}
    assert orders.sql("SELECT xmin FROM orders WHERE id = %s", order_id) == orders.sql(
        "SELECT xmin FROM exactly_once_outbox WHERE key = %s", order_id
    )
    assert lane in range(4)


def test_the_trace_of_the_caller_goes_on(orders: Api) -> None:
    assert published(orders, place(orders, traceparent=TRACE))[0][2] == TRACE


def test_the_chosen_baggage_of_the_caller_goes_on_and_waits_with_what_is_scheduled(
    settings: Settings, serve: Callable[[type[Any], Settings], Api]
) -> None:
    orders = serve(OrderContainer, settings.model_copy(update={"http_baggage_keys": "tenant,experiment"}))
    said = {"traceparent": TRACE, "tracestate": "vendor=1", "baggage": "tenant=eu-7,secret=x,experiment=b"}
    order_id = place(orders, **said)
    context = f"{TRACE}\ntracestate: vendor=1\nbaggage: tenant=eu-7,experiment=b"
    assert published(orders, order_id)[0][2] == context
    assert orders.sql("SELECT traceparent FROM exactly_once_schedule WHERE key = %s", order_id) == [(context,)]


def test_without_a_choice_no_baggage_goes_on(orders: Api) -> None:
    order_id = place(orders, traceparent=TRACE, baggage="tenant=eu-7")
    assert published(orders, order_id)[0][2] == TRACE


def test_whatever_the_headers_of_a_trace_hold_no_request_is_refused(orders: Api) -> None:
    for header in ("traceparent", "tracestate", "baggage"):
        for held in ("x" * 30_000, "a=1," * 5_000, "a=\\", ",", TRACE + "\tbaggage: a=b"):
            place(orders, **{header: held})


@pytest.mark.parametrize(
    "given", ["", "nonsense", TRACE.upper(), TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)]
)
def test_a_call_without_a_usable_trace_begins_one(orders: Api, given: str) -> None:
    traces = {published(orders, place(orders, traceparent=given))[0][2] for _ in range(2)}
    assert len(traces) == 2
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace) for trace in traces)


@pytest.mark.parametrize("state", ["PLACED", "RESERVED"])
def test_an_order_that_is_not_final_is_cancelled_once(orders: Api, state: str) -> None:
    order_id = place(orders)
    if state != "PLACED":
        force(orders, order_id, state)
    for _ in range(2):
        answer = orders.post(f"/orders/{order_id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")
    assert [row[0] for row in published(orders, order_id)] == ["OrderPlaced", "OrderCancelled"]


@pytest.mark.parametrize("state", ["CONFIRMED", "REJECTED"])
def test_it_can_be_too_late_to_cancel(orders: Api, state: str) -> None:
    order_id = place(orders)
    force(orders, order_id, state)
    answer = orders.post(f"/orders/{order_id}/cancel")
    assert answer.status_code == 409
    assert state in answer.json()["detail"]
    assert orders.get(f"/orders/{order_id}").json()["state"] == state
    assert [row[0] for row in published(orders, order_id)] == ["OrderPlaced"]


def test_an_order_that_does_not_exist(orders: Api) -> None:
    missing = f"/orders/{uuid.uuid4()}"
    assert orders.get(missing).status_code == 404
    assert orders.post(f"{missing}/cancel").status_code == 404
    assert orders.get("/orders/x'y").status_code == 422


def test_pages_are_newest_first_without_gaps_or_repeats(orders: Api) -> None:
    placed = [place(orders) for _ in range(7)]
    seen: list[str] = []
    after: dict[str, str] = {}
    while len(seen) < 7:
        page = orders.get("/orders", params={"limit": 3, **after}).json()
        seen += [order["id"] for order in page["orders"]]
        assert all(order["lines"] == body()["lines"] for order in page["orders"])
        place(orders)  # a newcomer shifts nothing
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen[:7] == placed[::-1]


def test_the_last_page_says_so(orders: Api) -> None:
    first = orders.sql("SELECT min(id) FROM orders")[0][0]
    second = orders.sql("SELECT min(id) FROM orders WHERE id > %s", first)[0][0]
    page = orders.get("/orders", params={"after": second}).json()
    assert ([order["id"] for order in page["orders"]], page["next"]) == ([first], None)


def test_orders_are_listed_by_state(orders: Api) -> None:
    order_id = place(orders)
    force(orders, order_id, "CONFIRMED")
    page = orders.get("/orders", params={"state": "CONFIRMED", "limit": 100}).json()
    assert order_id in {order["id"] for order in page["orders"]}
    assert {order["state"] for order in page["orders"]} == {"CONFIRMED"}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "state=LOST", "after=x", f"after={36 * '-'}"])
def test_a_query_that_is_out_of_bounds(orders: Api, query: str) -> None:
    assert orders.get(f"/orders?{query}").status_code == 422
