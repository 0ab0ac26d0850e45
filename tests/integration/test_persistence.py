"""On a real session and database, what the handlers decide is stored, and the database refuses what must not be."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text

from dev.servers import Servers
from services.inventory import events as inventory_events
from services.inventory.handlers import service as inventory_service
from services.order import events as order_events
from services.order.handlers import service as order_service
from services.order.models import Order
from services.payment import events as payment_events
from services.payment.calls import BankCall, CapturePayment, RefundPayment
from services.payment.handlers import service as payment_service
from shared.calls import Answer, Done
from shared.declaration.routes import Route
from shared.events import Event
from shared.service import Service
from shared.session import Session
from shared.settings import Settings
from shared.testing.databases import migrated


@pytest.fixture(scope="module")
def settings(servers: Servers) -> Iterator[Settings]:
    with migrated(servers.postgres, "order", "inventory", "payment") as found:
        yield found


@pytest.fixture(scope="module")
def engines(settings: Settings) -> Iterator[dict[str, Engine]]:
    found = {service: create_engine(settings.dsn(service)) for service in ("order", "inventory", "payment")}
    yield found
    for engine in found.values():
        engine.dispose()


@pytest.fixture
def order_id() -> str:
    return str(uuid.uuid4())


def handle(engine: Engine, service: Service, *events: Event) -> list[str]:
    """Handle `events` in one transaction; return the types published."""
    published: list[Event] = []
    with Session(engine) as session, session.begin():
        for event in events:
            (route,) = (route for route in service.routes if route.event is type(event))
            assert isinstance(route, Route)
            session.publisher = published.append
            session.scheduler = lambda *_: None  # no deadline is scheduled here, so none is there to be cancelled
            for rows in route.rows:
                session.lock_all(rows.model, rows.keys(event, session))
            published += route.call(event, session)
        assert all(session.holds(event.key) for event in published)
    return [type(event).__name__ for event in published]


def one(engine: Engine, statement: str, **values: object) -> tuple[object, ...]:
    with engine.begin() as connection:
        return tuple(connection.execute(text(statement), values).one())


def test_an_order_is_stored_at_every_step(engines: dict[str, Engine], order_id: str) -> None:
    with Session(engines["order"]) as session, session.begin():
        session.add(Order(id=order_id, account="ada", state="PLACED"))
    reserved = order_events.StockReserved(order_id=order_id, amount=300, currency="EUR")
    assert handle(engines["order"], order_service, reserved) == []
    captured = order_events.PaymentCaptured(order_id=order_id, amount=300, currency="EUR")
    assert handle(engines["order"], order_service, captured) == ["OrderConfirmed"]
    found = one(engines["order"], "SELECT state, amount, currency, reason FROM orders WHERE id = :id", id=order_id)
    assert found == ("CONFIRMED", 300, "EUR", None)


def test_stock_is_stored_at_every_step(engines: dict[str, Engine], order_id: str) -> None:
    skus = [f"{name}-{order_id[:8]}" for name in ("tea", "cup")]
    for sku in skus:
        one(engines["inventory"], "INSERT INTO stock VALUES (:sku, 100, 'EUR', 5, 0, 0, 5) RETURNING 1", sku=sku)

    def counts() -> list[tuple[object, ...]]:
        return [
            one(engines["inventory"], "SELECT available, reserved, sold FROM stock WHERE sku = :s", s=s) for s in skus
        ]

    lines = tuple(inventory_events.Line(sku, quantity) for sku, quantity in zip(skus, (1, 2), strict=True))
    placed = inventory_events.OrderPlaced(order_id=order_id, account="ada", lines=lines)
    assert handle(engines["inventory"], inventory_service, placed) == ["StockReserved"]
    assert counts() == [(4, 1, 0), (3, 2, 0)]
    captured = inventory_events.PaymentCaptured(order_id=order_id)
    assert handle(engines["inventory"], inventory_service, captured) == ["StockSold"]
    assert counts() == [(4, 0, 1), (3, 0, 2)]
    cancelled = inventory_events.OrderCancelled(order_id=order_id)
    assert handle(engines["inventory"], inventory_service, cancelled) == ["StockReleased"]
    assert counts() == [(5, 0, 0), (5, 0, 0)]
    row = "SELECT state, amount, was_sold, lines FROM reservation WHERE order_id = :id"
    assert one(engines["inventory"], row, id=order_id) == ("RELEASED", 300, True, dict(zip(skus, (1, 2), strict=True)))


def answered(engine: Engine, call: BankCall, published: Sequence[str]) -> None:
    """Let the bank's booking have its effect, and compare what it publishes."""
    found: list[str] = []
    with Session(engine) as session, session.begin():
        session.publisher = lambda event, _change=None: found.append(type(event).__name__)
        verdict = call.answered(Answer(201, {}, b"{}"), session)
        assert isinstance(verdict, Done)
        assert all(session.holds(event.key) for event in verdict.events)
    assert [*found, *(type(event).__name__ for event in verdict.events)] == list(published)


def test_money_is_stored_at_every_step(engines: dict[str, Engine], order_id: str) -> None:
    account = f"a-{order_id[:8]}"
    one(engines["payment"], "INSERT INTO account VALUES (:a, 'EUR', 1000) RETURNING 1", a=account)
    money: dict[str, Any] = {"order_id": order_id, "account": account, "amount": 300, "currency": "EUR"}

    def balance() -> tuple[object, ...]:
        found = "SELECT balance, (SELECT state FROM payment WHERE order_id = :id) FROM account WHERE id = :a"
        return one(engines["payment"], found, a=account, id=order_id)

    assert handle(engines["payment"], payment_service, payment_events.StockReserved(**money)) == ["CapturePayment"]
    assert balance() == (700, "CAPTURING")
    answered(engines["payment"], CapturePayment(**money), ["PaymentCaptured"])
    assert balance() == (700, "CAPTURED")
    cancelled = payment_events.OrderCancelled(order_id=order_id)
    assert handle(engines["payment"], payment_service, cancelled) == ["RefundPayment"]
    assert balance() == (700, "REFUNDING")
    answered(engines["payment"], RefundPayment(**money), ["PaymentRefunded"])
    assert balance() == (1000, "REFUNDED")
    ledger = (
        "SELECT count(*), sum(amount), sum(amount) FILTER (WHERE side = 'merchant'), "
        "sum(amount) FILTER (WHERE side = 'held') FROM entry WHERE order_id = :id"
    )
    assert one(engines["payment"], ledger, id=order_id) == (6, 0, 0, 0)


def test_a_cancelled_capture_is_stored_as_such(engines: dict[str, Engine], order_id: str) -> None:
    account = f"a-{order_id[:8]}"
    one(engines["payment"], "INSERT INTO account VALUES (:a, 'EUR', 1000) RETURNING 1", a=account)
    money: dict[str, Any] = {"order_id": order_id, "account": account, "amount": 300, "currency": "EUR"}
    reserved, cancelled = payment_events.StockReserved(**money), payment_events.OrderCancelled(order_id=order_id)
    assert handle(engines["payment"], payment_service, reserved, cancelled) == ["CapturePayment"]
    assert one(engines["payment"], "SELECT state FROM payment WHERE order_id = :id", id=order_id) == ("CANCELLING",)
    answered(engines["payment"], CapturePayment(**money), ["RefundPayment", "PaymentCaptured"])
    assert one(engines["payment"], "SELECT state FROM payment WHERE order_id = :id", id=order_id) == ("REFUNDING",)


def test_everything_may_happen_in_one_batch(engines: dict[str, Engine], order_id: str) -> None:
    """A later event finds rows that an earlier event of the batch has made, before anything is written."""
    sku = f"one-{order_id[:8]}"
    one(engines["inventory"], "INSERT INTO stock VALUES (:sku, 100, 'EUR', 5, 0, 0, 5) RETURNING 1", sku=sku)
    published = handle(
        engines["inventory"],
        inventory_service,
        inventory_events.OrderPlaced(order_id=order_id, account="ada", lines=(inventory_events.Line(sku, 5),)),
        inventory_events.OrderPlaced(order_id=f"{order_id}-2", account="ada", lines=(inventory_events.Line(sku, 1),)),
        inventory_events.PaymentCaptured(order_id=order_id),
        inventory_events.OrderCancelled(order_id=order_id),
    )
    assert published == ["StockReserved", "StockRejected", "StockSold", "StockReleased"]
    assert one(engines["inventory"], "SELECT available, reserved, sold FROM stock WHERE sku = :s", s=sku) == (5, 0, 0)


def test_a_cancelled_order_that_nobody_knows_leaves_a_row(engines: dict[str, Engine], order_id: str) -> None:
    assert handle(engines["inventory"], inventory_service, inventory_events.OrderCancelled(order_id=order_id)) == []
    assert handle(engines["payment"], payment_service, payment_events.OrderCancelled(order_id=order_id)) == []
    assert one(engines["inventory"], "SELECT state FROM reservation WHERE order_id = :id", id=order_id) == (
        "CANCELLED",
    )
    assert one(engines["payment"], "SELECT state FROM payment WHERE order_id = :id", id=order_id) == ("CANCELLED",)


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("inventory", "INSERT INTO stock VALUES ('x', 1, 'EUR', -1, 1, 0, 0)"),
        ("inventory", "INSERT INTO stock VALUES ('x', 1, 'EUR', 1, 0, 0, 2)"),
        ("inventory", "INSERT INTO stock VALUES ('x', 0, 'EUR', 0, 0, 0, 0)"),
        ("inventory", "INSERT INTO reservation (order_id, state, lines) VALUES ('x', 'RESERVED', '{}')"),
        ("inventory", "INSERT INTO reservation (order_id, state, lines) VALUES ('x', 'LOST', '{}')"),
        ("inventory", "INSERT INTO reservation (order_id, state, lines) VALUES ('x', 'REJECTED', '{}')"),
        ("payment", "INSERT INTO account VALUES ('x', 'EUR', -1)"),
        ("payment", "INSERT INTO payment (order_id, state) VALUES ('x', 'CAPTURED')"),
        ("payment", "INSERT INTO entry (posting, side, amount, currency) VALUES ('x', 'cash', 0, 'EUR')"),
        ("payment", "INSERT INTO entry (posting, side, amount, currency) VALUES ('x', 'customer', 1, 'EUR')"),
        ("order", "INSERT INTO orders (id, account, state) VALUES ('x', 'ada', 'CONFIRMED')"),
        ("order", "INSERT INTO orders (id, account, state) VALUES ('x', 'ada', 'REJECTED')"),
    ],
)
def test_the_database_refuses_what_must_never_be(settings: Settings, service: str, statement: str) -> None:
    with (
        psycopg.connect(settings.migration_dsn(service).replace("+psycopg", "")) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute(statement.encode())


@pytest.mark.parametrize("statement", ["UPDATE entry SET amount = 1", "DELETE FROM entry", "TRUNCATE entry"])
def test_the_ledger_only_grows(settings: Settings, statement: str) -> None:
    with (
        psycopg.connect(settings.migration_dsn("payment").replace("+psycopg", "")) as connection,
        pytest.raises(psycopg.errors.RestrictViolation),
    ):
        connection.execute(statement.encode())


def test_an_order_is_captured_once_even_if_its_payment_is_forgotten(
    engines: dict[str, Engine], settings: Settings, order_id: str
) -> None:
    account = f"a-{order_id[:8]}"
    one(engines["payment"], "INSERT INTO account VALUES (:a, 'EUR', 1000) RETURNING 1", a=account)
    reserved = payment_events.StockReserved(order_id=order_id, account=account, amount=300, currency="EUR")
    handle(engines["payment"], payment_service, reserved)
    one(engines["payment"], "DELETE FROM payment WHERE order_id = :id RETURNING 1", id=order_id)
    with pytest.raises(Exception, match="entry_pkey"):
        handle(engines["payment"], payment_service, reserved)
    assert one(engines["payment"], "SELECT balance FROM account WHERE id = :a", a=account) == (700,)
