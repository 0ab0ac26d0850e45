"""All that is known of an order that does not balance, collected from three databases and the topics.

For an operator the library's `story` tells the same. The balance sheet does not use it: a mistake of the library must
not hide itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dev.balance.book import Book
from dev.balance.databases import Databases
from dev.balance.queries import DOSSIER, DOSSIER_DEAD_LETTERS, DOSSIER_INBOX, DOSSIER_OUTBOX
from dev.balance.rules import SERVICES, TOPICS
from dev.balance.topics import Record, Topics


def dossiers(orders: Sequence[str], databases: Databases, topics: Topics, book: Book | None) -> list[str]:
    """Describe each of `orders` in full. Reads the topics once more, for these orders only."""
    if not orders:
        return []
    wanted: dict[str, list[Record]] = {order: [] for order in orders}
    for record in topics.read(TOPICS):
        if record.key in wanted:
            wanted[record.key].append(record)
    return ["\n  ".join(_lines(order, records, databases, book)) for order, records in wanted.items()]


def _lines(order: str, records: Sequence[Record], databases: Databases, book: Book | None) -> Iterable[str]:
    yield f"{order}:"
    if book is not None:
        key = book.accepted.get(order)
        cancelled = ", cancellation accepted" if order in book.cancelled else ""
        yield f"http       {'no such answer' if key is None else f'accepted, Idempotency-Key {key}{cancelled}'}"
    events = [record.id for record in records]
    for service in SERVICES:
        for query in DOSSIER[service]:
            yield from (f"{service:10} {_text(row)}" for row in databases.dicts(service, query, id=order))
        for row in databases.dicts(service, DOSSIER_INBOX, events=events):
            yield f"{service:10} has handled {row['event_id']} at {_value(row['handled_at'])}"
        for row in databases.dicts(service, DOSSIER_OUTBOX, id=order):
            yield f"{service:10} outbox: {_text(row)}"
        for row in databases.dicts(service, DOSSIER_DEAD_LETTERS, id=order):
            yield f"{service:10} dead letter: {_text(row)}"
    yield from map(str, sorted(records, key=lambda record: record.written))


def _text(row: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in row.items() if value is not None)


def _value(value: object) -> str:
    return f"{value:%T.%f}" if isinstance(value, datetime) else str(value)
