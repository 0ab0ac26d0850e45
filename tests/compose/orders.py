"""An order as a customer places it."""

import uuid

import httpx

from dev.compose import ComposeSystem
from shared.testing import until

CURRENCY = "EUR"
SECONDS_MAX = 120.0  # a broker or the database may be about to come back


def order_and_see_it_confirmed(system: ComposeSystem) -> None:
    """Receive goods and money, place an order, and wait until it is confirmed."""
    name = uuid.uuid4().hex[:8]
    stock, account = f"{system.url('inventory')}/stock/{name}", f"{system.url('payment')}/accounts/{name}"
    orders = f"{system.url('order')}/orders"
    with httpx.Client(timeout=30.0, headers=system.headers) as customer:

        def send(method: str, url: str, body: dict[str, object]) -> httpx.Response:
            answer = customer.request(method, url, json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
            return answer.raise_for_status()

        def confirmed() -> bool:
            return bool(customer.get(order).raise_for_status().json()["state"] == "CONFIRMED")

        send("PUT", stock, {"price": 450, "currency": CURRENCY})
        send("POST", f"{stock}/receipts", {"quantity": 10})
        send("PUT", account, {"currency": CURRENCY})
        send("POST", f"{account}/deposits", {"amount": 10_000, "currency": CURRENCY})
        placed = send("POST", orders, {"account": name, "lines": [{"sku": name, "quantity": 2}]})
        order = f"{orders}/{placed.json()['id']}"
        until(confirmed, "the order is confirmed", SECONDS_MAX)
