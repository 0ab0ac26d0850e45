"""A customer who buys one thing of a running system."""

import uuid
from typing import Any, Self

import httpx

from dev.system import System


class Customer:
    """Fills a shelf and an account of their own, and orders."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._name = f"customer-{uuid.uuid4().hex[:8]}"
        self._client = httpx.Client(timeout=30.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def order(self, price: int, **headers: str) -> str:
        """Order one thing of this price; return the order's id."""
        name = self._name
        self._send("PUT", "inventory", f"/stock/{name}", {"price": price, "currency": "EUR"})
        self._send("POST", "inventory", f"/stock/{name}/receipts", {"quantity": 10})
        self._send("PUT", "payment", f"/accounts/{name}", {"currency": "EUR"})
        self._send("POST", "payment", f"/accounts/{name}/deposits", {"amount": 10_000, "currency": "EUR"})
        body = {"account": name, "lines": [{"sku": name, "quantity": 1}]}
        return str(self._send("POST", "order", "/orders", body, **headers)["id"])

    def state(self, order: str) -> str:
        """Return the state of an order."""
        return str(self._send("GET", "order", f"/orders/{order}", None)["state"])

    def _send(self, method: str, service: str, path: str, body: Any, **headers: str) -> Any:
        headers = {"Idempotency-Key": uuid.uuid4().hex, **headers}
        answer = self._client.request(method, f"{self._system.url(service)}{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()
