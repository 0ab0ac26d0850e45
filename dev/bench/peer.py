"""The peer: the same saga as teams write it today, "commit, then send", at least once.

    DATABASE_URL=... KAFKA_BOOTSTRAP_SERVERS=... python -m dev.bench.peer inventory     # a worker of the service
    HTTP_PORT=...                                python -m dev.bench.peer order-api     # POST /orders

One record a transaction: handle it, commit PostgreSQL, send what was decided and wait until Kafka has it, then commit
the offset. It has the same tables and does what our handlers do for an order that nobody cancels: the same rows locked,
read and written, and the same bank asked, from inside the handler. A record that comes again is handled again, so its
handler first looks whether it was there. A request sends its event after its commit and does not wait: if the process
dies then, the event is lost.

It is as fast as this way can be: idempotent producers without linger, connections kept, no outbox, no inbox, no
tracing, no limits, no authorization, no idempotency keys, no records checked against a schema.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import httpx
import uvicorn
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from fastapi import FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session
from uuid_utils import uuid7

from services.inventory.models import Reservation, Stock
from services.order.models import Order, OrderLine
from services.payment.models import Account, Payment

BANK = httpx.Client(base_url=os.environ.get("BANK_URL", ""), timeout=3.0, trust_env=False)
TOPICS = {name: f"peer.{name}.events" for name in ("order", "inventory", "payment")}
SEND_SECONDS = 10.0
POLL_SECONDS = 0.5

Fields = dict[str, Any]
Event = tuple[str, Fields]
"""Its type, and its fields; `order_id` is the key."""
Handler = Callable[[Fields, Session], Iterable[Event]]


def reserve(event: Fields, session: Session) -> list[Event]:
    """Reserve all lines or none, at today's prices."""
    order_id = event["order_id"]
    reservation = session.get(Reservation, order_id, with_for_update=True)
    if reservation is None:
        wanted: Counter[str] = Counter()
        for line in event["lines"]:
            wanted[line["sku"]] += line["quantity"]
        stock = _locked_stock(session, wanted)
        reservation = Reservation(order_id=order_id, lines=dict(wanted), state="REJECTED")
        session.add(reservation)
        if len(stock) < len(wanted):
            reservation.reason = "UNKNOWN_SKU"
        elif any(item.available < wanted[item.sku] for item in stock.values()):
            reservation.reason = "OUT_OF_STOCK"
        else:
            for item in stock.values():
                item.available -= wanted[item.sku]
                item.reserved += wanted[item.sku]
            reservation.state, reservation.currency = "RESERVED", next(iter(stock.values())).currency
            reservation.amount = sum(item.price * wanted[item.sku] for item in stock.values())
    if reservation.amount is None:
        return [("StockRejected", {"order_id": order_id, "reason": reservation.reason})]
    money = {"amount": reservation.amount, "currency": reservation.currency}
    return [("StockReserved", {"order_id": order_id, "account": event["account"], **money})]


def sell(event: Fields, session: Session) -> list[Event]:
    """The money is taken: what was reserved is sold."""
    reservation = session.get_one(Reservation, event["order_id"], with_for_update=True)
    if reservation.state == "RESERVED":
        stock = _locked_stock(session, reservation.lines)
        for sku, quantity in reservation.lines.items():
            stock[sku].reserved -= quantity
            stock[sku].sold += quantity
        reservation.state, reservation.was_sold = "SOLD", True
    return [("StockSold", {"order_id": reservation.order_id})]


def _locked_stock(session: Session, skus: Iterable[str]) -> dict[str, Stock]:
    found = select(Stock).where(Stock.sku.in_(list(skus))).order_by(Stock.sku).with_for_update()
    return {item.sku: item for item in session.scalars(found)}


def charge(event: Fields, session: Session) -> list[Event]:
    """The stock is reserved: take the money, or decline."""
    order_id, amount = event["order_id"], event["amount"]
    payment = session.get(Payment, order_id, with_for_update=True)
    if payment is None:
        account = session.get(Account, event["account"], with_for_update=True)
        payment = Payment(
            order_id=order_id, account=event["account"], amount=amount, currency=event["currency"], state="DECLINED"
        )
        session.add(payment)
        if account is None or account.currency != event["currency"]:
            payment.reason = "UNKNOWN_ACCOUNT"
        elif account.balance < amount:
            payment.reason = "NOT_ENOUGH_MONEY"
        else:
            _ask_bank(order_id, event["account"], amount, event["currency"])
            payment.state = "CAPTURED"
            session.add_all(account.post(-amount, f"capture:{order_id}", against="merchant", order_id=order_id))
    if payment.state == "DECLINED":
        return [("PaymentDeclined", {"order_id": order_id, "reason": payment.reason})]
    money = {"amount": payment.amount, "currency": payment.currency}
    return [("PaymentCaptured", {"order_id": order_id, "account": payment.account, **money})]


def _ask_bank(order_id: str, account: str, amount: int, currency: str) -> None:
    """Have the bank take the money, while the transaction is open: without an answer, the record comes again."""
    asked = {"order": order_id, "account": account, "amount": amount, "currency": currency}
    BANK.post("/captures", json=asked, headers={"Idempotency-Key": order_id}).raise_for_status()


def reserved(event: Fields, session: Session) -> list[Event]:
    """The price is known now, and the payment is under way."""
    order = session.get_one(Order, event["order_id"], with_for_update=True)
    if order.state == "PLACED":
        order.state, order.amount, order.currency = "RESERVED", event["amount"], event["currency"]
    return []


def paid(event: Fields, session: Session) -> list[Event]:
    """The order is confirmed."""
    order = session.get_one(Order, event["order_id"], with_for_update=True)
    if order.state in ("PLACED", "RESERVED"):
        order.state, order.amount, order.currency = "CONFIRMED", event["amount"], event["currency"]
    money = {"amount": order.amount, "currency": order.currency}
    return [("OrderConfirmed", {"order_id": order.id, **money})]


def refused(event: Fields, session: Session) -> list[Event]:
    """No stock or no money: the order comes to nothing."""
    order = session.get_one(Order, event["order_id"], with_for_update=True)
    order.state, order.reason = "REJECTED", event["reason"]
    return [("OrderRejected", {"order_id": order.id, "reason": order.reason})]


HANDLERS: dict[str, dict[str, Handler]] = {
    "order": {
        "StockReserved": reserved,
        "StockRejected": refused,
        "PaymentCaptured": paid,
        "PaymentDeclined": refused,
    },
    "inventory": {"OrderPlaced": reserve, "PaymentCaptured": sell},
    "payment": {"StockReserved": charge},
}
CONSUMED = {"order": ("inventory", "payment"), "inventory": ("order", "payment"), "payment": ("inventory",)}


class Publisher:
    """Sends events to a service's topic."""

    def __init__(self, bootstrap: str, service: str) -> None:
        self._topic = TOPICS[service]
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 0})

    def send(self, events: Iterable[Event]) -> None:
        """Send; do not wait."""
        for kind, fields in events:
            headers: list[tuple[str, str | bytes | None]] = [("ce_type", kind)]
            self._producer.produce(self._topic, json.dumps(fields), fields["order_id"], headers=headers)
        self._producer.poll(0)

    def wait(self) -> None:
        """Return when Kafka has all. Raises `TimeoutError`; then nobody knows which it has."""
        if self._producer.flush(SEND_SECONDS):
            raise TimeoutError("Kafka took too long")


def work(service: str, engine: Engine, bootstrap: str) -> None:
    """Handle one record after the other, until SIGTERM."""
    publisher = Publisher(bootstrap, service)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"peer.{service}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    # What is passed over is committed with the next record that is not, or here.
    consumer.subscribe([TOPICS[name] for name in CONSUMED[service]], on_revoke=_settle)
    while not stopping:
        message = consumer.poll(POLL_SECONDS)
        if message is None:
            continue
        if error := message.error():
            if not error.retriable():
                raise KafkaException(error)
            continue
        handler = HANDLERS[service].get(_kind(message))
        if handler is None:
            continue
        with Session(engine) as session, session.begin():
            events = handler(json.loads(message.value() or b""), session)
        publisher.send(events)
        publisher.wait()
        _settle(consumer, [])
    consumer.close()


def _kind(message: Message) -> str:
    headers: Any = dict(message.headers() or [])
    return str(headers["ce_type"].decode())


def _settle(consumer: Consumer, _: list[TopicPartition]) -> None:
    """Commit what was polled. A group that is just being divided anew refuses it, and right after it there may be
    nothing to commit: the records come again then.
    """
    with suppress(KafkaException):
        consumer.commit(asynchronous=False)


class Line(BaseModel):
    """How many of what."""

    sku: str = Field(min_length=1, max_length=100)
    quantity: int = Field(ge=1, le=1_000_000)


class PlaceOrder(BaseModel):
    """What to order, and who pays."""

    account: str = Field(min_length=1, max_length=100)
    lines: list[Line] = Field(min_length=1, max_length=100)


def application(engine: Engine, bootstrap: str) -> FastAPI:
    """Return the API of the order service."""
    app, publisher = FastAPI(), Publisher(bootstrap, "order")

    @app.get("/health/ready")
    def ready() -> None: ...

    @app.post("/orders", status_code=201)
    def place(asked: PlaceOrder) -> Fields:
        lines = [line.model_dump() for line in asked.lines]
        with Session(engine, expire_on_commit=False) as session, session.begin():
            rows = [OrderLine(number=number, **line) for number, line in enumerate(lines, 1)]
            order = Order(id=str(uuid7()), account=asked.account, state="PLACED", lines=rows)
            session.add(order)
        publisher.send([("OrderPlaced", {"order_id": order.id, "account": order.account, "lines": lines})])
        return {"id": order.id, "account": order.account, "state": order.state, "lines": lines}

    return app


def main() -> None:
    (name,) = sys.argv[1:]
    bootstrap = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    # A thread of FastAPI's pool each; the overflow is closed again, which costs a new connection each time.
    engine = create_engine(os.environ["DATABASE_URL"], pool_size=40)
    if name == "order-api":
        port = int(os.environ["HTTP_PORT"])
        uvicorn.run(application(engine, bootstrap), port=port, log_level="warning", timeout_keep_alive=30)
    else:
        work(name, engine, bootstrap)


if __name__ == "__main__":
    main()
