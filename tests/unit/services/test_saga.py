"""The saga settles in any order of events: every interleaving is tried, with the real handlers."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest

from services.inventory import handlers as inventory
from services.inventory.models import Reservation, Stock
from services.order import handlers as order
from services.payment import states as payment
from services.payment.models import Account, Entry
from shared.states import NONE, Command, Machine, name_of
from tests.unit.services.saga import (
    AT_ONCE,
    FORGETS,
    INITIAL_MONEY,
    PRICE,
    REFUSES,
    SERVICES,
    Move,
    World,
    at_the_bank,
    captured,
    explore,
    published,
    rows,
    start,
    states,
)

MACHINES: tuple[Machine[Any], ...] = (order.ORDER, inventory.RESERVATION, payment.PAYMENT)

# What the three services may agree on when all is read. The first is the order's state.
AGREEMENTS = {
    ("CONFIRMED", "SOLD", "CAPTURED"),
    ("REJECTED", "REJECTED", NONE),
    ("REJECTED", "RELEASED", "DECLINED"),
    ("CANCELLED", "CANCELLED", "CANCELLED"),
    ("CANCELLED", "REJECTED", "CANCELLED"),
    ("CANCELLED", "RELEASED", "CANCELLED"),
    ("CANCELLED", "RELEASED", "DECLINED"),
    ("CANCELLED", "RELEASED", "REFUNDED"),
    ("TIMED OUT", "CANCELLED", "CANCELLED"),
    ("TIMED OUT", "REJECTED", "CANCELLED"),
    ("TIMED OUT", "RELEASED", "CANCELLED"),
    ("TIMED OUT", "RELEASED", "DECLINED"),
    ("TIMED OUT", "RELEASED", "REFUNDED"),
}

# What a service has published about an order by the end, by the state of its row.
PUBLISHED = {
    "order.events": {
        "CONFIRMED": ["OrderPlaced", "OrderConfirmed"],
        "REJECTED": ["OrderPlaced", "OrderRejected"],
        "CANCELLED": ["OrderPlaced", "OrderCancelled"],
        "TIMED OUT": ["OrderPlaced", "OrderTimedOut"],
    },
    "inventory.events": {
        "SOLD": ["StockReserved", "StockSold"],
        "REJECTED": ["StockRejected"],
        "RELEASED": ["StockReserved", "StockReleased"],
        "RETURNED": ["StockReserved", "StockSold", "StockReleased"],
        "CANCELLED": [],
    },
    "payment.events": {
        "CAPTURED": ["PaymentCaptured"],
        "DECLINED": ["PaymentDeclined"],
        "REFUNDED": ["PaymentCaptured", "PaymentRefunded"],
        "CANCELLED": [],
        NONE: [],
    },
}

ENDED = ("CANCELLED", "TIMED OUT")
"""By the customer, or by the deadline: at any moment."""

SCENARIOS = {
    "all is there": ({"tea": 2, "cup": 1}, "ada", {"CONFIRMED", *ENDED}),
    "not enough stock": ({"tea": 2, "cup": 6}, "ada", {"REJECTED", *ENDED}),
    "unknown item": ({"tea": 2, "pot": 1}, "ada", {"REJECTED", *ENDED}),
    "two currencies": ({"tea": 1, "book": 1}, "ada", {"REJECTED", *ENDED}),
    "not enough money": ({"tea": 2}, "bob", {"REJECTED", *ENDED}),
    "wrong currency": ({"book": 1}, "ada", {"REJECTED", *ENDED}),
    "unknown account": ({"tea": 1}, "eve", {"REJECTED", *ENDED}),
}


def check_always(world: World) -> None:
    """Check what holds in every world, settled or not."""
    for item in rows(world, "inventory", Stock):
        assert min(item["available"], item["reserved"], item["sold"]) >= 0
        assert item["received"] == item["available"] + item["reserved"] + item["sold"]
    for account in rows(world, "payment", Account):
        assert account["balance"] >= 0


def check_settled(world: World, orders: dict[str, dict[str, int]]) -> Counter[str]:
    """Check what holds when all is read; return how many orders ended in which state."""
    assert not world.scheduled, "an order that is decided has no deadline any more"
    held = [entry["amount"] for entry in rows(world, "payment", Entry) if entry["side"] == "held"]
    assert sum(held) == 0, "nothing is held for the bank any more"
    ends: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for order_id, lines in orders.items():
        found = states(world, order_id)
        assert found in AGREEMENTS, (
            f"the services end in {found}, which is none of AGREEMENTS in this file: they disagree, or it is a new "
            f"end; then add it there and to the first table of docs/services.md"
        )
        ends[found[0]] += 1
        (reservation,) = (row for row in rows(world, "inventory", Reservation) if row["order_id"] == order_id)
        assert reservation["was_sold"] or found[1] != "SOLD"
        told = (found[0], "RETURNED" if found[1] == "RELEASED" and reservation["was_sold"] else found[1], found[2])
        for (topic, by_state), state in zip(PUBLISHED.items(), told, strict=True):
            assert published(world, topic, order_id) == by_state[state]
        confirmed = found[0] == "CONFIRMED"
        assert captured(world, order_id) == (PRICE * sum(lines.values()) if confirmed else 0)
        assert at_the_bank(world, order_id) == captured(world, order_id)
        sold.update(lines if confirmed else {})
    for item in rows(world, "inventory", Stock):
        assert (item["reserved"], item["sold"]) == (0, sold[item["sku"]])
    (ada,) = (account for account in rows(world, "payment", Account) if account["id"] == "ada")
    assert ada["balance"] == INITIAL_MONEY - PRICE * sold.total()
    return ends


def visit(
    orders: dict[str, dict[str, int]],
    account: str,
    *,
    may_set_aside: int = 0,
    overdue: int | None = None,
    bank_also: Collection[str] = (),
) -> tuple[int, set[Move], Counter[str]]:
    """Explore, and return the number of worlds, the moves seen, and all ends of orders."""
    ends: Counter[str] = Counter()

    def check(world: World, settled: bool) -> None:
        check_always(world)
        if settled:
            ends.update(check_settled(world, orders))

    first = start(orders, account, may_set_aside=may_set_aside, overdue=overdue, bank_also=bank_also)
    count, found = explore(first, check)
    return count, found, ends


@pytest.mark.parametrize("may_set_aside", [0, 1, 2])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_interleaving_settles(scenario: str, may_set_aside: int) -> None:
    lines, account, expected = SCENARIOS[scenario]
    _, _, ends = visit({"o-1": lines}, account, may_set_aside=may_set_aside)
    assert set(ends) == expected


@pytest.mark.parametrize("may_set_aside", [0, 1])
def test_every_interleaving_settles_whatever_the_bank_does(may_set_aside: int) -> None:
    """It books and its answer is lost; it is given up when it has booked, books later, or never; it refuses."""
    _, _, ends = visit({"o-1": {"tea": 2, "cup": 1}}, "ada", may_set_aside=may_set_aside, bank_also=(FORGETS, REFUSES))
    assert set(ends) == {"CONFIRMED", "REJECTED", *ENDED}


def test_two_orders_for_the_last_items_settle() -> None:
    """Both want three of five: one of them gets nothing, unless the other gave it back in time."""
    _, _, ends = visit({"o-1": {"tea": 3}, "o-2": {"tea": 3}}, "ada", overdue=0, bank_also=(AT_ONCE,))
    assert set(ends) == {"CONFIRMED", "REJECTED", "CANCELLED"}


FINAL = (order.CONFIRMED, order.REJECTED, order.CANCELLED)
"""An order's final states, on which a customer may rely."""


def test_the_customer_can_rely_on_a_final_state() -> None:
    for state in FINAL:
        leaving = [name_of(event) for event, cells in order.ORDER.table.items() if cells[state].to]
        assert not leaving, (
            f"{leaving} lead out of {state}, which is final: let them be ignored or refused there in "
            f"services/order/handlers.py; or, if it is not final any more, take it out of FINAL in this file and say "
            f"so in docs/services.md"
        )


def test_the_tables_refuse_more_and_no_less_than_what_can_happen() -> None:
    """Each transition of a table happens in some world, and nothing happens that no table has."""
    seen: set[Move] = set()
    for lines, account, _ in SCENARIOS.values():
        seen |= visit({"o-1": lines}, account, may_set_aside=1, bank_also=(REFUSES,))[1]
    here = {event.__name__ for service in SERVICES.values() for event in service.publishes}
    here |= {cause.name for machine in MACHINES for cause in machine.table if isinstance(cause, Command)}
    for machine in MACHINES:
        table = {name_of(cause): cells for cause, cells in machine.table.items()}
        allowed = {
            Move(machine.name, event, state, target)
            for event, cells in table.items()
            if event in here  # what others publish does not happen in this world
            for state, cell in cells.items()
            for target in cell.to
        }
        happened = {move for move in seen if move.machine == machine.name}
        moved = {move for move in happened if move.before != move.after}
        assert moved == allowed, (
            f"the table of {machine.name}, in services/*/handlers.py, allows what never happens in any order of "
            f"events: {sorted(allowed - moved)}; and what happens is not in it: {sorted(moved - allowed)}. Correct the "
            f"table or the handler, or add a scenario to SCENARIOS in this file in which it happens"
        )
        for move in happened:
            assert not table[move.event][move.before].refused or move.event == order.CANCEL.name
