"""A service that hears an event understands what the one that says it writes. They share no code, so this compares
them.
"""

import re
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from services.inventory import events as inventory
from services.order import events as order
from services.payment import events as payment
from shared.events import Event
from shared.handling import Service

SERVICES: list[Service] = [
    import_module(f"services.{path.parent.name}.handlers").SERVICE
    for path in sorted(Path("services").glob("*/handlers.py"))
]

ID = "01a1fe09-116d-773e-96cb-10309fcb6076"
MAX_MONEY = 1_000_000_000_000_000
# What each service says, in its smallest and its largest form.
SAID: list[Event] = [
    order.OrderPlaced(order_id=ID, account="a", lines=(order.Line("s", 1),)),
    order.OrderPlaced(
        order_id="x" * 64, account="A.b_c:d-1", lines=tuple(order.Line(f"s{n}", 1_000_000) for n in range(100))
    ),
    order.OrderConfirmed(order_id=ID, amount=MAX_MONEY, currency="EUR"),
    order.OrderRejected(order_id=ID, reason="UNKNOWN_SKU"),
    order.OrderCancelled(order_id=ID),
    inventory.StockReserved(order_id=ID, account="a" * 64, amount=MAX_MONEY, currency="EUR"),
    inventory.StockReserved(order_id=ID, account="a", amount=1, currency="EUR"),
    inventory.StockRejected(order_id=ID, reason="MIXED_CURRENCIES"),
    inventory.StockReleased(order_id=ID),
    inventory.StockSold(order_id=ID),
    payment.PaymentCaptured(order_id=ID, account="a", amount=1, currency="EUR"),
    payment.PaymentDeclined(order_id=ID, reason="NOT_ENOUGH_MONEY"),
    payment.PaymentRefunded(order_id=ID, account="a", amount=1, currency="EUR"),
]


def test_every_type_that_is_heard_is_said_by_one_service() -> None:
    saying = [(event.topic, event.__name__, event.version) for service in SERVICES for event in service.says]
    for service in SERVICES:
        for route in service.routes:
            assert saying.count((route.event.topic, route.event.__name__, route.event.version)) == 1


def test_a_topic_belongs_to_the_service_that_says_it() -> None:
    for service in SERVICES:
        assert service.speaks_on == (f"{service.name}.events",)


def test_every_type_that_is_said_has_an_example_here() -> None:
    ours = [service for service in SERVICES if service.name in {"order", "inventory", "payment"}]
    assert {type(event) for event in SAID} == {event for service in ours for event in service.says}


@pytest.mark.parametrize("event", [pytest.param(e, id=f"{n} {type(e).__name__}") for n, e in enumerate(SAID)])
def test_what_is_said_is_understood(event: Event) -> None:
    data = msgspec.json.encode(event)
    # The producer's own bounds first: what they refuse must never leave the service.
    assert msgspec.json.decode(data, type=type(event)) == event
    for service in SERVICES:
        for route in service.routes:
            if (route.event.topic, route.event.__name__) == (event.topic, type(event).__name__):
                heard = msgspec.json.decode(data, type=route.event)
                assert heard.key == event.key
                for name in route.event.__struct_fields__:
                    assert msgspec.to_builtins(getattr(heard, name)) == msgspec.to_builtins(getattr(event, name))


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"order_id":"","account":"a","lines":[{"sku":"s","quantity":1}]}',
        b'{"order_id":"o\\u0000","account":"a","lines":[{"sku":"s","quantity":1}]}',
        b'{"order_id":"o\\n","account":"a","lines":[{"sku":"s","quantity":1}]}',
        b'{"order_id":"o","account":"a b","lines":[{"sku":"s","quantity":1}]}',
        b'{"order_id":"o","account":"a","lines":[]}',
        b'{"order_id":"o","account":"a","lines":[{"sku":"s","quantity":0}]}',
        b'{"order_id":"o","account":"a","lines":[{"sku":"s","quantity":-1}]}',
        b'{"order_id":"o","account":"a","lines":[{"sku":"s","quantity":1.5}]}',
        b'{"order_id":"o","account":"a","lines":[{"sku":"s","quantity":1000001}]}',
        b'{"order_id":"o","account":"a"}',
        b"[]",
        b"",
    ],
)
def test_what_is_out_of_bounds_is_refused_when_it_is_read(wrong: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(wrong, type=inventory.OrderPlaced)


def test_a_field_that_a_newer_producer_adds_is_ignored() -> None:
    heard = msgspec.json.decode(b'{"order_id":"o","why":"changed my mind"}', type=payment.OrderCancelled)
    assert heard == payment.OrderCancelled(order_id="o")


def test_no_service_imports_another() -> None:
    """The import contract says it too; a copy made by `make service` is checked here from its first minute."""
    for path in sorted(Path("services").glob("*/*.py")):
        for imported in re.findall(r"(?:from|import) services\.(\w+)", path.read_text()):
            assert imported == path.parent.name
