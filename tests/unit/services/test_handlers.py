"""Every cell of every state table is what the handlers do; a table that lies is worse than none."""

from collections.abc import Callable
from typing import Any

import pytest

from services.inventory import events as inventory_events
from services.inventory import handlers as inventory
from services.inventory.models import Base as InventoryBase
from services.inventory.models import Reservation, Stock
from services.order import events as order_events
from services.order import handlers as order
from services.order.models import Base as OrderBase
from services.order.models import Order
from services.payment import events as payment_events
from services.payment import handlers as payment
from services.payment.models import Account, Payment
from services.payment.models import Base as PaymentBase
from shared.errors import Reject
from shared.events import Event
from shared.service import Service
from shared.states import NONE, Machine
from tests.unit.services.trial import MakeTrial

ID = "o-1"


def order_rows(state: str) -> list[Any]:
    reason = "OUT_OF_STOCK" if state == order.REJECTED else None
    return [Order(id=ID, account="ada", state=state, amount=200, currency="EUR", reason=reason)]


def reservation_rows(state: str) -> list[Any]:
    reserved, sold = {str(inventory.RESERVED): (2, 0), str(inventory.SOLD): (0, 2)}.get(state, (0, 0))
    available = 5 - reserved - sold
    stock = Stock(sku="tea", price=100, currency="EUR", available=available, reserved=reserved, sold=sold, received=5)
    taken = state not in (inventory.REJECTED, inventory.CANCELLED)
    reservation = Reservation(
        order_id=ID,
        state=state,
        lines={"tea": 2},
        amount=200 if taken else None,
        currency="EUR" if taken else None,
        reason="OUT_OF_STOCK" if state == inventory.REJECTED else None,
        was_sold=state == inventory.SOLD,
    )
    return [reservation, stock]


def payment_rows(state: str) -> list[Any]:
    account = Account(id="ada", currency="EUR", balance=800)
    if state == payment.CANCELLED:
        return [Payment(order_id=ID, state=state), account]
    reason = "NOT_ENOUGH_MONEY" if state == payment.DECLINED else None
    return [Payment(order_id=ID, state=state, account="ada", amount=200, currency="EUR", reason=reason), account]


EVENTS: dict[str, Event] = {
    "order StockReserved": order_events.StockReserved(order_id=ID, amount=200, currency="EUR"),
    "order StockRejected": order_events.StockRejected(order_id=ID, reason="OUT_OF_STOCK"),
    "order PaymentCaptured": order_events.PaymentCaptured(order_id=ID, amount=200, currency="EUR"),
    "order PaymentDeclined": order_events.PaymentDeclined(order_id=ID, reason="NOT_ENOUGH_MONEY"),
    "reservation OrderPlaced": inventory_events.OrderPlaced(
        order_id=ID, account="ada", lines=(inventory_events.Line("tea", 2),)
    ),
    "reservation OrderCancelled": inventory_events.OrderCancelled(order_id=ID),
    "reservation PaymentCaptured": inventory_events.PaymentCaptured(order_id=ID),
    "reservation PaymentDeclined": inventory_events.PaymentDeclined(order_id=ID),
    "payment StockReserved": payment_events.StockReserved(order_id=ID, account="ada", amount=200, currency="EUR"),
    "payment OrderCancelled": payment_events.OrderCancelled(order_id=ID),
}

Given = Callable[[str], list[Any]]
Part = tuple[Machine, Service, type[Any], type[Any], Given]
PARTS: list[Part] = [
    (order.ORDER, order.SERVICE, OrderBase, Order, order_rows),
    (inventory.RESERVATION, inventory.SERVICE, InventoryBase, Reservation, reservation_rows),
    (payment.PAYMENT, payment.SERVICE, PaymentBase, Payment, payment_rows),
]
CELLS = [
    pytest.param(part, event, state, id=f"{part[0].name} {state} {event}")
    for part in PARTS
    for event in part[0].table
    if event != order.CANCEL
    for state in part[0].states
]


def test_every_event_of_a_table_has_an_example_here() -> None:
    for machine, service, _, _, _ in PARTS:
        for event in machine.table:
            assert event == order.CANCEL or f"{machine.name} {event}" in EVENTS, (
                f"services/{service.name} consumes {event}: add an example of it to EVENTS in this file, as "
                f'"{machine.name} {event}"'
            )


def test_every_event_that_is_consumed_and_moves_a_state_has_a_route() -> None:
    for machine, service, _, _, _ in PARTS:
        routed = {route.event.__name__ for route in service.routes}
        unconsumed = set(machine.table) - routed - {order.CANCEL}
        assert not unconsumed, (
            f"the table of {machine.name} has {sorted(unconsumed)}, and nothing is routed: add `on(...)` to SERVICE in "
            f"services/{service.name}/handlers.py"
        )


@pytest.mark.parametrize(("part", "event", "state"), CELLS)
def test_a_cell_is_obeyed(trial: MakeTrial, part: Part, event: str, state: str) -> None:
    machine, service, base, aggregate, given = part
    batch = trial(service, base)
    if f"{machine.name} {event}" not in EVENTS:
        pytest.fail(f"add an example of {event} to EVENTS in this file")
    rows = given(state)
    batch.given(*(rows[1:] if state == NONE else rows))
    before = batch.rows()
    cell = machine.table[event][state]
    consumed = EVENTS[f"{machine.name} {event}"]
    if cell.refused:
        with pytest.raises(Reject, match=state.strip("()")):
            batch.handle(consumed)
        return
    published = batch.handle(consumed)
    if cell.to:
        assert batch.find(aggregate, ID).state in cell.to
    else:
        assert batch.rows() == before
        assert published == []


@pytest.mark.parametrize("state", order.ORDER.states)
def test_a_customer_cancels_what_is_not_final(state: str) -> None:
    (row,) = order_rows(state)
    cell = order.ORDER.table[order.CANCEL][state]
    if cell.refused:
        with pytest.raises(Reject):
            order.cancel(row)
        assert row.state == state
    else:
        published = list(order.cancel(row))
        assert published == ([order_events.OrderCancelled(order_id=ID)] if cell.to else [])
        assert row.state == order.CANCELLED


def test_lines_of_one_item_are_added_up_before_they_are_compared_with_the_stock(trial: MakeTrial) -> None:
    """Our API refuses them, but the contract of the topic allows them."""
    batch = trial(inventory.SERVICE, InventoryBase)
    batch.given(*reservation_rows(inventory.REJECTED)[1:])
    lines = (inventory_events.Line("tea", 3), inventory_events.Line("tea", 3))
    placed = inventory_events.OrderPlaced(order_id=ID, account="ada", lines=lines)
    assert batch.handle(placed) == [inventory_events.StockRejected(order_id=ID, reason="OUT_OF_STOCK")]


def test_an_amount_that_no_payment_could_carry_is_rejected(trial: MakeTrial) -> None:
    batch = trial(inventory.SERVICE, InventoryBase)
    batch.given(
        *(
            Stock(sku=sku, price=10**9, currency="EUR", available=10**9, reserved=0, sold=0, received=10**9)
            for sku in ("gem", "orb")
        )
    )
    lines = (inventory_events.Line("gem", 1_000_000), inventory_events.Line("orb", 1))
    placed = inventory_events.OrderPlaced(order_id=ID, account="ada", lines=lines)
    assert batch.handle(placed) == [inventory_events.StockRejected(order_id=ID, reason="AMOUNT_TOO_LARGE")]
    assert batch.find(Stock, "gem").reserved == 0
