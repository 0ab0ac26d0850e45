"""Each service of the saga understands the others' events, from the smallest to the largest."""

import ast
from pathlib import Path

import msgspec
import pytest

from dev.service.names import Spellings
from services.inventory import events as inventory
from services.inventory import handlers as inventory_handlers
from services.order import events as order
from services.order import handlers as order_handlers
from services.payment import events as payment
from services.payment import handlers as payment_handlers
from shared.events import Event
from shared.service import Service

SERVICES: list[Service] = [order_handlers.service, inventory_handlers.service, payment_handlers.service]

ID = "01a1fe09-116d-773e-96cb-10309fcb6076"
MAX_MONEY = 1_000_000_000_000_000
# What each service publishes, in its smallest and its largest form.
PUBLISHED: list[Event] = [
    order.OrderPlaced(order_id=ID, account="a", lines=(order.Line("s", 1),)),
    order.OrderPlaced(
        order_id="x" * 64, account="A.b_c:d-1", lines=tuple(order.Line(f"s{n}", 1_000_000) for n in range(100))
    ),
    order.OrderConfirmed(order_id=ID, amount=MAX_MONEY, currency="EUR"),
    order.OrderRejected(order_id=ID, reason="UNKNOWN_SKU"),
    order.OrderCancelled(order_id=ID),
    order.OrderTimedOut(order_id=ID),
    order.PaymentOverdue(order_id=ID),
    inventory.StockReserved(order_id=ID, account="a" * 64, amount=MAX_MONEY, currency="EUR"),
    inventory.StockReserved(order_id=ID, account="a", amount=1, currency="EUR"),
    inventory.StockRejected(order_id=ID, reason="MIXED_CURRENCIES"),
    inventory.StockReleased(order_id=ID),
    inventory.StockSold(order_id=ID),
    payment.PaymentCaptured(order_id=ID, account="a", amount=1, currency="EUR"),
    payment.PaymentDeclined(order_id=ID, reason="NOT_ENOUGH_MONEY"),
    payment.PaymentRefunded(order_id=ID, account="a", amount=1, currency="EUR"),
]


def test_every_type_that_is_published_has_an_example_here() -> None:
    published = {event for service in SERVICES for event in service.publishes}
    lacking = {event.__name__ for event in published - {type(event) for event in PUBLISHED}}
    assert not lacking, (
        f"add an example of {sorted(lacking)}, in its smallest and its largest form, to PUBLISHED in this file"
    )


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_each_publishes_all_on_the_topic_of_its_name(service: Service) -> None:
    """The demo's balance sheet finds them by it, and its own deadlines beside it. Other services name theirs freely."""
    deadlines = {event.topic for event in service.publishes} & {f"{service.name}.deadlines"}
    assert {*service.published_topics} - deadlines == {f"{service.name}.events"}


@pytest.mark.parametrize("event", [pytest.param(e, id=f"{n} {type(e).__name__}") for n, e in enumerate(PUBLISHED)])
def test_what_is_published_is_understood(event: Event) -> None:
    data = msgspec.json.encode(event)
    # The producer's own bounds first: what they refuse must never leave the service.
    assert msgspec.json.decode(data, type=type(event)) == event
    for service in SERVICES:
        for route in service.routes:
            if (route.event.topic, route.event.__name__) == (event.topic, type(event).__name__):
                consumed = msgspec.json.decode(data, type=route.event)
                assert consumed.key == event.key
                for name in route.event.__struct_fields__:
                    assert msgspec.to_builtins(getattr(consumed, name)) == msgspec.to_builtins(getattr(event, name))


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
    consumed = msgspec.json.decode(b'{"order_id":"o","why":"changed my mind"}', type=payment.OrderCancelled)
    assert consumed == payment.OrderCancelled(order_id="o")


def test_the_three_services_repeat_little_of_each_other() -> None:
    """Method: lines of code, as Python itself writes them, that a file has in every service but for the name."""
    repeated = 0
    files = [{path.name for path in Path("services", service.name).glob("*.py")} for service in SERVICES]
    for file in set.intersection(*files):
        texts = [
            Spellings(service.name).generic(Path(f"services/{service.name}/{file}").read_text()) for service in SERVICES
        ]
        repeated += len(set.intersection(*(code(text) for text in texts)))
    assert 0 < repeated < 45


def code(source: str) -> set[str]:
    """Return the lines of code without comments and docstrings."""
    parsed = ast.parse(source)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            is_text = [isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) for part in node.body]
            node.body = [part for part, text in zip(node.body, is_text, strict=True) if not text]
    return {line for line in ast.unparse(parsed).splitlines() if line.strip()}
