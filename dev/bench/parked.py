"""What others keep of their throughput while the handler of 1 % of the keys asks for another attempt, without end.
`python -m dev.bench.parked worker` is the worker that is measured.
"""

import os
import random
from collections.abc import Iterator
from typing import Annotated

import msgspec
import psycopg
from uuid_utils import uuid7

from dev.bench.inventory import Inventory, all_published, dsn, wait_until
from dev.bench.orders import ITEMS, SEED, publish, sku
from dev.bench.report import Figure
from dev.bench.throughput import handled, handled_per_second
from dev.servers import Echo, Servers
from services.inventory.models import Stock
from services.order import handlers as order
from services.order.events import Line, OrderPlaced
from shared import Event, Retry, Service, lock
from shared.command import main
from shared.container import ServiceContainer, containers, providers
from shared.protocol.ports import OutboxRow
from shared.settings import Settings

SECTION = "parked"
KEYS = 1_000
BAD = KEYS // 100
PROGRAM = "dev.bench.parked"
SWITCH = "BENCH_BAD_KEYS"
"""How many keys a worker cannot handle; it is its own environment variable."""


class Ordered(Event, topic="inventory.events", key="sku"):
    """A customer has ordered of an item."""

    sku: str
    order_id: str


service = Service("inventory", publishes=(Ordered,))


def _sku(event: OrderPlaced) -> str:
    return event.lines[0].sku


@service.on(OrderPlaced)
def note(event: OrderPlaced, stock: Annotated[Stock, lock(by=_sku)]) -> Ordered:
    """Count the order, unless its customer is one of those who have to wait."""
    if int(event.order_id.removeprefix("customer-")) < int(os.environ.get(SWITCH, "0")):
        raise Retry(f"{event.order_id} has to wait")
    stock.reserved += 1
    stock.available -= 1
    return Ordered(sku=stock.sku, order_id=event.order_id)


@containers.copy(ServiceContainer)
class ParkedContainer(ServiceContainer):
    service = providers.Object(service)
    routes = providers.Object("services.inventory.api:router")


def measure(servers: Servers, report: Echo, *, events: int) -> Iterator[Figure]:
    """Measure the same worker on the same records, with and without keys that have to wait."""
    inventory = Inventory(servers)
    report(f"parked: filling order.events with {events:,} orders of {KEYS:,} customers ...")
    publish(inventory.database("parked-fill"), _placed(events))
    report("parked: one worker ...")
    alone = _drain(inventory, inventory.database("parked-none"), events, bad=0)
    inventory.forget_group()
    report(f"parked: one worker, and {BAD} keys that wait ...")
    beside = _drain(inventory, inventory.database("parked-some"), events, bad=BAD) * (1 - BAD / KEYS)
    yield Figure(SECTION, "one worker, every key is handled", alone, "events/s")
    yield Figure(SECTION, "the others, while 1 % of the keys wait", beside, "events/s")
    yield Figure(SECTION, "the others / all", beside / alone, "times", at_least=0.9)


def _placed(count: int) -> Iterator[OutboxRow]:
    chance = random.Random(SEED)
    for _ in range(count):
        customer = chance.randrange(KEYS)
        line = Line(sku=sku(customer % ITEMS), quantity=1)
        event = OrderPlaced(order_id=f"customer-{customer}", account="account-1", lines=(line,))
        data, event_id = msgspec.json.encode(event), f"{order.service.name}:{uuid7()}"
        yield OutboxRow(
            event.topic, event.key, event_id, "OrderPlaced", event.version, "2026-01-01T00:00:00Z", data, None
        )


def _drain(inventory: Inventory, settings: Settings, events: int, *, bad: int) -> float:
    """Let one worker read everything; return events per second: what is parked counts as read."""
    with (
        psycopg.connect(dsn(settings), autocommit=True) as connection,
        inventory.worker(settings, PROGRAM, **{SWITCH: str(bad)}),
    ):
        wait_until(
            lambda: all_published(connection) and handled(connection) == events, f"{events} events", 60 + events / 500
        )
        return handled_per_second(connection)


if __name__ == "__main__":
    main(ParkedContainer)
