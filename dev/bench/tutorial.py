"""The loop that tutorials show: consume one record, handle it and commit PostgreSQL, then produce and commit Kafka.

The same handlers and the same client; no inbox, no outbox. A crash between the two commits loses what should have been
published, so it is not even right; it is here to show what batches are worth.
"""

import time
from typing import Any

import msgspec
from confluent_kafka import Consumer, Message, Producer
from sqlalchemy import Engine

from dev.bench.inventory import SILENCE_SECONDS, BenchError
from services.inventory.handlers import service
from shared.events import Event
from shared.postgres.handlers import Handlers
from shared.protocol.ports import Delivery, Input, Record
from shared.session import Session

WARM = 20
"""Records before the clock starts: connections and caches are set up by then."""


def rate(engine: Engine, bootstrap: str, name: str, count: int, settings: dict[str, Any]) -> float:
    """Handle `count` records of order.events, one at a time; return records per second."""
    handlers = Handlers(service)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": name,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, **settings})
    producer.init_transactions(SILENCE_SECONDS)
    consumer.subscribe(["order.events"])
    try:
        with Session(engine) as session:
            began = time.monotonic()
            for number in range(WARM + count):
                if number == WARM:
                    began = time.monotonic()
                message = consumer.poll(SILENCE_SECONDS)
                if message is None or message.error():
                    raise BenchError(f"the naive loop got no record: {message and message.error()}")
                published = _handle(handlers, session, message)
                producer.begin_transaction()
                for event in published:
                    producer.produce(event.topic, msgspec.json.encode(event), event.key)
                producer.send_offsets_to_transaction(
                    consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
                )
                producer.commit_transaction()
            return count / (time.monotonic() - began)
    finally:
        consumer.close()


def _handle(handlers: Handlers, session: Session, message: Message) -> list[Event]:
    """Run the handlers of one record in a PostgreSQL transaction; collect what the handlers return."""
    source = Input(message.topic() or "", message.partition() or 0)
    headers: Any = message.headers()
    record = Record(source, message.offset() or 0, message.key(), message.value(), headers)
    opened = handlers.open(record)
    assert opened is not None
    published: list[Event] = []
    handlers.run(
        [Delivery(record, opened.envelope, opened.event, 0)], session, lambda _, events: published.extend(events)
    )
    session.commit()
    return published
