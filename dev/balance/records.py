"""Compares each topic, read from its beginning with `read_committed`, with what its service must have published."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from dev.balance.rules import NOTHING_FOUND, PUBLISHES, Deviations, Found, Order, compare
from dev.balance.sheet import Offenders
from dev.balance.topics import Record, Topics

# The events whose amounts are added up and compared with the tables.
PRICED = frozenset({"OrderConfirmed", "PaymentCaptured", "PaymentRefunded"})


@dataclass
class Consumed:
    """What a reader has consumed of one topic."""

    topic: str
    events: int = 0
    by_key: dict[str, Found] = field(default_factory=dict)
    repeated: Offenders = field(default_factory=Offenders)
    """Events written twice."""
    foreign: Offenders = field(default_factory=Offenders)
    """Records that are not events of the topic's service."""
    amounts: Counter[str] = field(default_factory=Counter)


def listen(topics: Topics, topic: str) -> Consumed:
    """Read a topic once. Per key a few words are kept, and every id: one topic at a time fits easily."""
    consumed = Consumed(topic)
    service = topic.removesuffix(".events")
    ids: set[str] = set()
    types: defaultdict[str, list[str]] = defaultdict(list)
    partitions: defaultdict[str, set[int]] = defaultdict(set)
    interned: dict[str, str] = {}
    for record in topics.read([topic]):
        if problem := _foreign(record, service):
            consumed.foreign.add(f"{record.key or '-'} {problem}: {record}")
            continue
        partitions[record.key].add(record.partition)
        if record.id in ids:
            consumed.repeated.add(f"{record.key} {record}")
            continue
        ids.add(record.id)
        types[record.key].append(interned.setdefault(record.type, record.type))
        consumed.events += 1
        if record.type in PRICED:
            amount = record.field("amount")
            consumed.amounts[record.type] += amount if isinstance(amount, int) else 0
    consumed.by_key = {key: Found(tuple(published), frozenset(partitions[key])) for key, published in types.items()}
    return consumed


def _foreign(record: Record, service: str) -> str | None:
    if not (record.key and record.id and record.type):
        return "no key, no ce_id or no ce_type"
    if record.source != service:
        return f"published by {record.source or 'nobody'}"
    return None if record.field("order_id") == record.key else "its order_id is not its key"


def check(consumed: Consumed, orders: Iterable[Order], deviations: Deviations) -> int:
    """Compare what was consumed with the state of every order; return the number of events that must have been
    published.
    """
    expected = 0
    publishes = PUBLISHES[consumed.topic]
    left = consumed.by_key
    for order in orders:
        due = publishes.get(order.state(consumed.topic), ())
        expected += len(due)
        compare(order.id, due, left.pop(order.id, NOTHING_FOUND), deviations)
    for key, found in left.items():  # no service has a row of these
        compare(key, (), found, deviations)
    return expected
