"""The orders that the benchmark works with: one to three lines of 200 items, published as the order service
publishes them.
"""

import random
import secrets
from collections.abc import Iterator
from itertools import islice

import msgspec
from uuid_utils import uuid7

from services.order.events import Line, OrderPlaced
from services.order.handlers import service
from shared.kafka.producer import TransactionalProducer
from shared.kafka.topics import create_topics
from shared.protocol.ports import OutboxRow
from shared.settings import Settings

ITEMS = 200
LINES_MAX = 3
ACCOUNTS = 1_000
STOCK = 10**11
"""Of each item: nothing is ever sold out, so every event costs the same."""
SEED = 1

_encode = msgspec.json.Encoder().encode


def sku(number: int) -> str:
    return f"sku-{number:04d}"


def order_lines(chance: random.Random, items: int = ITEMS) -> tuple[Line, ...]:
    """Choose the lines of an order."""
    chosen = chance.sample(range(items), chance.randint(1, LINES_MAX))
    return tuple(Line(sku=sku(item), quantity=chance.randint(1, 3)) for item in chosen)


def placed(count: int) -> Iterator[OutboxRow]:
    """Return the `OrderPlaced` of `count` orders, as rows of the order service's outbox."""
    chance = random.Random(SEED)
    for _ in range(count):
        event = OrderPlaced(
            order_id=str(uuid7()), account=f"account-{chance.randrange(ACCOUNTS)}", lines=order_lines(chance)
        )
        yield OutboxRow(
            topic=event.topic,
            key=event.key,
            event_id=f"{service.name}:{uuid7()}",
            event_type=type(event).__name__,
            event_version=event.version,
            time="2026-01-01T00:00:00.000000Z",
            data=_encode(event),
            traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        )


def fill(settings: Settings, count: int) -> None:
    """Publish `count` orders as the order service's worker does."""
    publish(settings, placed(count))


def publish(settings: Settings, rows: Iterator[OutboxRow]) -> None:
    """Publish `rows` with the order service's producer, in transactions of the usual size."""
    create_topics(settings, service)  # a producer that finds one missing waits for it
    producer = TransactionalProducer(settings, service, slot=0)
    producer.renew()
    while batch := list(islice(rows, settings.batch_records)):
        producer.begin()
        producer.produce(batch)
        producer.commit()
    producer.close()
