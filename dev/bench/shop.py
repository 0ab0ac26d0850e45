"""The whole system with its shelves and accounts filled, so that no order is ever refused."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from dev.bench.customers import Customers
from dev.bench.inventory import BenchError
from dev.bench.load import ACCOUNTS, ITEMS
from dev.bench.meter import Meter
from dev.bench.orders import sku
from dev.servers import Servers
from dev.system import Shape, System

PIECES = 1_000_000
"""Of each item; an order takes four of any."""
MONEY = 1_000_000_000_000
"""In each account, minor units."""


@contextmanager
def shop(servers: Servers) -> Iterator[tuple[System, Customers, Meter]]:
    """Run the whole system with one worker a service, one caller, a bank that never fails, and its customers."""
    with (
        System(servers, Shape(workers=1, callers=1), report=lambda _: None) as system,
        Customers(f"{system.url('order')}/orders", system.bootstrap, "order.events") as customers,
    ):
        _open(system, customers)
        yield system, customers, Meter.of(system)


def _open(system: System, customers: Customers) -> None:
    """Put in the stock to be ordered, and the money to pay for it."""
    connections = {service: HTTPConnection(urlsplit(system.url(service)).netloc) for service in system.services}

    def send(service: str, method: str, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        connections[service].request(method, path, json.dumps(body), headers)
        answer = connections[service].getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise BenchError(f"{method} {path} of {service} was answered with {answer.status}: {content!r}")

    for item in map(sku, range(ITEMS)):
        send("inventory", "PUT", f"/stock/{item}", {"price": 100, "currency": "EUR"})
        send("inventory", "POST", f"/stock/{item}/receipts", {"quantity": PIECES})
        customers.book.received[item] += PIECES
    for account in (f"account-{number}" for number in range(ACCOUNTS)):
        send("payment", "PUT", f"/accounts/{account}", {"currency": "EUR"})
        send("payment", "POST", f"/accounts/{account}/deposits", {"amount": MONEY, "currency": "EUR"})
        customers.book.deposited[account] += MONEY
    for connection in connections.values():
        connection.close()
