"""A small world in which everything balances: rows and records made by hand, without a service.

It has each way in which an order can end once. A test damages one thing, and the sheet must say which.
"""

import json
import threading
import time
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from psycopg import sql
from sqlalchemy import make_url

from dev.balance import Balance, Book, Sheet
from dev.balance.rules import AGREED, CONSUMED_TOPICS, PUBLISHES, SERVICES, TOPICS
from dev.balance.topics import Topics
from dev.bank import Bank, Books, Temper
from dev.servers import Servers
from shared.kafka.producer import IN_ORDER

PARTITIONS = 4
SECONDS = 20.0
PRICE = 100
_numbers = count(1)

# The reason that the database wants with these states.
REASON = {"REJECTED": "OUT_OF_STOCK", "TIMED OUT": "PAYMENT_TIMED_OUT", "DECLINED": "NOT_ENOUGH_MONEY"}


class World:
    """Three databases and three topics with a few orders."""

    def __init__(self, servers: Servers) -> None:
        """Databases are cloned from those that the services have migrated; the topics are emptied."""
        self._servers = servers
        self.book = Book()
        self.refused: list[tuple[str | None, KafkaError | None]] = []
        """Records that did not arrive."""
        number = next(_numbers)
        self.dsns: dict[str, str] = {}
        with psycopg.connect(servers.postgres.dsn(), autocommit=True) as admin:
            for service in SERVICES:
                name = f"{service}_world_{number}"
                statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
                admin.execute(statement.format(sql.Identifier(name), sql.Identifier(service)))
                self.dsns[service] = servers.postgres.dsn(name)
        self.consumed = dict(CONSUMED_TOPICS)
        self.connections: dict[str, psycopg.Connection] = {}
        with ExitStack() as stack:
            self._open = stack
            self.books_file = Path(stack.enter_context(TemporaryDirectory())) / "books"
            self.books = Books(self.books_file)
            self.bank = stack.enter_context(Bank(("127.0.0.1", 0), self.books, Temper()))
            threading.Thread(target=self.bank.serve_forever, daemon=True).start()
            stack.callback(self.bank.shutdown)
            for service in self.dsns:
                self._connect(service)
            self.topics = Topics(servers.kafka.bootstrap)
            self._empty_topics(*TOPICS, "order.deadlines", *(f"{service}.outbox" for service in SERVICES))
            self.producer = Producer(
                {
                    "bootstrap.servers": servers.kafka.bootstrap,
                    **IN_ORDER,
                    "linger.ms": 0,
                    "log_level": 0,
                }
            )
            self.outcomes = {outcome: self.order(*outcome) for outcome in sorted(AGREED)}
            self.rest()
            self._open = stack.pop_all()

    def close(self) -> None:
        with self._open:
            self.producer.flush(SECONDS)
        for dsn in self.dsns.values():  # of sixty worlds the server could not remove the files when it ends
            self._servers.postgres.drop_database(make_url(dsn).database or "")

    def _connect(self, service: str) -> None:
        connection = psycopg.connect(self.dsns[service], autocommit=True)
        self.connections[service] = self._open.enter_context(connection)

    def _empty_topics(self, *wanted: str) -> None:
        admin = AdminClient({"bootstrap.servers": self._servers.kafka.bootstrap, "log_level": 0})
        there = {topic for topic, _ in self.topics.partitions(wanted)}
        new = [NewTopic(topic, PARTITIONS, 1) for topic in wanted if topic not in there]
        for future in admin.create_topics(new).values() if new else ():
            future.result(SECONDS)
        ends = self.topics.ends(self.topics.partitions(wanted)) if not new else {}
        full = [TopicPartition(*partition, end.high) for partition, end in ends.items() if end.high]
        for future in admin.delete_records(full).values() if full else ():
            future.result(SECONDS)

    def run(self, service: str, query: str, *values: Any) -> None:
        """Change something in the database of `service`."""
        self.connections[service].execute(query.encode(), values)

    def order(
        self, order: str, reservation: str, payment: str, *, without: Iterable[str] = (), book: bool = True
    ) -> str:
        """Add an order in these states, with all that follows from them; `without` some events. Return its id."""
        order_id = f"order-{next(_numbers)}"
        account, sku = f"account-{order_id}", f"item-{order_id}"
        priced = reservation in {"RESERVED", "SOLD", "RELEASED", "RETURNED"}
        money = (PRICE, "EUR") if priced else (None, None)
        self.run(
            "order",
            "INSERT INTO orders (id, account, state, amount, currency, reason) VALUES (%s, %s, %s, %s, %s, %s)",
            *(order_id, account, "REJECTED" if order == "TIMED OUT" else order, *money, REASON.get(order)),
        )
        self.run("order", "INSERT INTO order_line VALUES (%s, 1, %s, 1)", order_id, sku)
        self._reserve(order_id, sku, reservation, money)
        self._pay(order_id, account, payment)
        for topic, state in zip(TOPICS, (order, reservation, payment), strict=True):
            for event_type in PUBLISHES[topic].get(state, ()):
                if event_type not in without:
                    self.publish(topic, order_id, event_type)
        if book:
            self.book.accept(f"key-{order_id}", order_id)
            self.book.received[sku] += 10
            self.book.deposited[account] += 10 * PRICE
            if order == "CANCELLED":
                self.book.cancelled.add(order_id)
        return order_id

    def _reserve(self, order_id: str, sku: str, state: str, money: tuple[int | None, str | None]) -> None:
        reserved, sold = int(state == "RESERVED"), int(state == "SOLD")
        self.run(
            "inventory",
            "INSERT INTO stock (sku, price, currency, available, reserved, sold, received)"
            " VALUES (%s, %s, 'EUR', %s, %s, %s, 10)",
            *(sku, PRICE, 10 - reserved - sold, reserved, sold),
        )
        if state != "-":
            self.run(
                "inventory",
                "INSERT INTO reservation (order_id, state, lines, amount, currency, reason, was_sold)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                *(order_id, "RELEASED" if state == "RETURNED" else state),
                json.dumps({} if state == "CANCELLED" else {sku: 1}),
                *(*money, REASON.get(state), state in {"SOLD", "RETURNED"}),
            )

    def _pay(self, order_id: str, account: str, state: str) -> None:
        self.run("payment", "INSERT INTO account (id, currency, balance) VALUES (%s, 'EUR', 0)", account)
        self.post(f"deposit:{order_id}", account, 10 * PRICE, other="cash")
        if state == "-":
            return
        money = (None, None, None) if state == "CANCELLED" else (account, PRICE, "EUR")
        self.run(
            "payment",
            "INSERT INTO payment (order_id, state, account, amount, currency, reason) VALUES (%s, %s, %s, %s, %s, %s)",
            *(order_id, state, *money, REASON.get(state)),
        )
        if state in {"CAPTURED", "REFUNDED"}:
            self.post(f"hold:{order_id}", account, -PRICE, order_id, other="held")
            self.entry(f"capture:{order_id}", "held", -PRICE, order_id)
            self.entry(f"capture:{order_id}", "merchant", PRICE, order_id)
            self.book_at_the_bank("capture", order_id)
        if state == "REFUNDED":
            self.post(f"refund:{order_id}", account, PRICE, order_id)
            self.book_at_the_bank("refund", order_id)

    def book_at_the_bank(self, kind: str, order_id: str, amount: int = PRICE) -> None:
        """Add a booking, under a key of its own."""
        body = {"order": order_id, "account": f"account-{order_id}", "amount": amount, "currency": "EUR"}
        self.books.book(f"{kind}-{next(_numbers)}", kind, body)

    def post(
        self, posting: str, account: str, amount: int, order_id: str | None = None, *, other: str = "merchant"
    ) -> None:
        """Add both sides of a posting, and keep the balance of the account."""
        self.entry(posting, "customer", amount, order_id, account)
        self.entry(posting, other, -amount, order_id)
        self.run("payment", "UPDATE account SET balance = balance + %s WHERE id = %s", amount, account)

    def entry(
        self, posting: str, side: str, amount: int, order_id: str | None = None, account: str | None = None
    ) -> None:
        """Add one side of a posting."""
        self.run(
            "payment",
            "INSERT INTO entry (posting, side, account, order_id, amount, currency) VALUES (%s, %s, %s, %s, %s, 'EUR')",
            *(posting, side, account, order_id, amount),
        )

    def publish(
        self,
        topic: str,
        key: str,
        event_type: str,
        *,
        event_id: str | None = None,
        partition: int | None = None,
        headers: dict[str, str] | None = None,
        amount: int = PRICE,
    ) -> None:
        """Write one event, as its service would."""
        service = topic.removesuffix(".events")
        self.producer.produce(
            topic,
            key=key,
            partition=zlib.crc32(key.encode()) % PARTITIONS if partition is None else partition,
            value=json.dumps({"order_id": key, "amount": amount}),
            headers={
                "ce_id": event_id or f"{service}:{key}.{event_type}",
                "ce_source": service,
                "ce_type": f"{event_type}.v1",
                "ce_time": "2026-01-01T00:00:00Z",
                **(headers or {}),
            },
            on_delivery=self._delivered,
        )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None or message.offset() is None:  # no offset: as `shared.kafka.producer` has it
            self.refused.append((message.topic(), error))

    def join(self, service: str, consumes: str, template: str) -> None:
        """Add a service that no rule knows, with a database like that of `template`."""
        name = f"{service}_world_{next(_numbers)}"
        with psycopg.connect(self._servers.postgres.dsn(), autocommit=True) as admin:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        self.dsns[service] = self._servers.postgres.dsn(name)
        self._connect(service)
        self.consumed[service] = (consumes,)
        topics = (f"{service}.events", f"{service}.outbox")
        self._empty_topics(*topics)
        for topic in (consumes, *topics):
            self.run(service, "INSERT INTO exactly_once_topic VALUES (%s, %s, %s)", topic, topic, PARTITIONS)

    def copied(self, order_id: str) -> None:
        """Let service `shipping` handle an order's StockReserved, if it was published, and publish that it did."""
        event_id = f"inventory:{order_id}.StockReserved"
        if not any(record.id == event_id for record in self.topics.read(["inventory.events"])):
            return
        self.run("shipping", "INSERT INTO exactly_once_inbox (source, event_id) VALUES ('inventory', %s)", event_id)
        self.publish("shipping.events", order_id, "ShippingNoted")

    def rest(self) -> None:
        """Mark everything written as handled by every service."""
        assert self.producer.flush(SECONDS) == 0
        assert self.refused == []
        deadline = time.monotonic() + SECONDS
        ends = self.topics.ends(self.topics.partitions(TOPICS))
        while any(end.stable != end.high for end in ends.values()):  # markers follow the commit of a transaction
            assert time.monotonic() < deadline, "a transaction stays open"
            ends = self.topics.ends(self.topics.partitions(TOPICS))
        for service, consumed in self.consumed.items():
            for (topic, partition), end in ends.items():
                if topic in consumed:
                    self.run(
                        service,
                        "INSERT INTO exactly_once_position (topic, partition, next_offset) VALUES (%s, %s, %s)"
                        " ON CONFLICT (topic, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset",
                        *(topic, partition, end.stable),
                    )

    def balance(self, drain_seconds: float = 0.0) -> Balance:
        bank = f"http://127.0.0.1:{self.bank.server_address[1]}"
        bootstrap = self._servers.kafka.bootstrap
        return Balance(bootstrap, self.dsns, drain_seconds=drain_seconds, settle_seconds=0.0, bank=bank)

    def sheet(self) -> Sheet:
        return self.balance().sheet(self.book)
