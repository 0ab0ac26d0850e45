"""The handlers do what every cell of every state table says, in memory and on a real PostgreSQL: a table that lies is
worse than none.
"""

from collections.abc import Callable
from typing import Any, Protocol
from unittest.mock import Mock

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
from services.payment import handlers as payment_handlers
from services.payment import states as payment
from services.payment.calls import BankMisunderstood, CapturePayment, RefundPayment, VoidCapture
from services.payment.models import Account, Entry, Payment
from services.payment.models import Base as PaymentBase
from shared.calls import Answer, Call, GivenUp
from shared.errors import Reject, Retry
from shared.events import Event
from shared.service import Service
from shared.states import NONE, Command, Machine, name_of
from shared.testing import MakeTrial, MemorySession, Scene

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


EVENTS: list[Event] = [
    order_events.StockReserved(order_id=ID, amount=200, currency="EUR"),
    order_events.StockRejected(order_id=ID, reason="OUT_OF_STOCK"),
    order_events.PaymentCaptured(order_id=ID, amount=200, currency="EUR"),
    order_events.PaymentDeclined(order_id=ID, reason="NOT_ENOUGH_MONEY"),
    order_events.PaymentOverdue(order_id=ID),
    inventory_events.OrderPlaced(order_id=ID, account="ada", lines=(inventory_events.Line("tea", 2),)),
    inventory_events.OrderCancelled(order_id=ID),
    inventory_events.OrderTimedOut(order_id=ID),
    inventory_events.PaymentCaptured(order_id=ID),
    inventory_events.PaymentDeclined(order_id=ID),
    payment_events.StockReserved(order_id=ID, account="ada", amount=200, currency="EUR"),
    payment_events.OrderCancelled(order_id=ID),
    payment_events.OrderTimedOut(order_id=ID),
]

Given = Callable[[str], list[Any]]
Part = tuple[Machine[Any], Service, type[Any], Given]
PARTS: list[Part] = [
    (order.ORDER, order.service, OrderBase, order_rows),
    (inventory.RESERVATION, inventory.service, InventoryBase, reservation_rows),
    (payment.PAYMENT, payment_handlers.service, PaymentBase, payment_rows),
]
CELLS = [
    pytest.param(part, cause, state, id=f"{part[0].name} {state} {cause.__name__}")
    for part in PARTS
    for cause in part[0].table
    if not isinstance(cause, Command)
    for state in part[0].states
]


def test_every_event_of_a_table_has_an_example_here() -> None:
    for machine, service, _, _ in PARTS:
        for cause in machine.table:
            assert isinstance(cause, Command) or cause in {type(event) for event in EVENTS}, (
                f"services/{service.name} consumes {name_of(cause)}: add an example of it to EVENTS in this file"
            )


def test_every_event_that_is_consumed_and_moves_a_state_has_a_handler() -> None:
    for machine, service, _, _ in PARTS:
        routed = {route.event for route in service.routes if route.machine is machine}
        lacking = [name_of(cause) for cause in machine.table if not isinstance(cause, Command) and cause not in routed]
        assert not lacking, (
            f"the table of {machine.name} has {lacking}, and no handler: write one with `@service.on(...)` in "
            f"services/{service.name}/handlers.py"
        )


class Tried(Protocol):
    """A place to try a handler: in memory, or on a real PostgreSQL."""

    def given(self, *rows: Any) -> None: ...
    def when(self, *events: Event) -> list[Event]: ...
    def row(self, model: type[Any], key: Any) -> Any: ...
    def everything(self) -> object: ...


@pytest.fixture(params=["memory", "PostgreSQL"])
def tried(request: pytest.FixtureRequest) -> Callable[[Service, type[Any]], Tried]:
    """Makes a place to try a handler: both kinds behave alike."""
    if request.param == "memory":
        return lambda service, _: Scene(service)
    trial: MakeTrial = request.getfixturevalue("trial")
    return trial


@pytest.mark.parametrize(("part", "event", "state"), CELLS)
def test_a_cell_is_obeyed(
    tried: Callable[[Service, type[Any]], Tried], part: Part, event: type[Event], state: str
) -> None:
    machine, service, base, given = part
    place = tried(service, base)
    rows = given(state)
    place.given(*(rows[1:] if state == NONE else rows))
    before = place.everything()
    cell = machine.table[event][state]
    (consumed,) = (example for example in EVENTS if type(example) is event)
    if cell.refused:
        with pytest.raises(Reject, match=state.strip("()")):
            place.when(consumed)
        return
    published = [event for event in place.when(consumed) if not isinstance(event, Call)]
    if cell.to:
        assert place.row(machine.model, ID).state in cell.to
    else:
        assert place.everything() == before
        assert published == []


@pytest.mark.parametrize("state", order.ORDER.states[1:])
def test_a_customer_cancels_what_is_not_final(state: str) -> None:
    session = MemorySession(order_rows(state))
    published: list[Event] = []
    session.publisher = published.append
    session.scheduler = Mock(side_effect=AssertionError)  # it only cancels
    row = session.lock(Order, ID)
    assert row is not None
    cell = order.ORDER.table[order.CANCEL][state]
    if cell.refused:
        with pytest.raises(Reject):
            order.cancel(row, session)
        assert row.state == state
    else:
        order.cancel(row, session)
        assert published == ([order_events.OrderCancelled(order_id=ID)] if cell.to else [])
        assert row.state == order.CANCELLED


def test_lines_of_one_item_are_added_up_before_they_are_compared_with_the_stock() -> None:
    """The API refuses them, but the contract of the topic allows them."""
    scene = Scene(inventory.service, *reservation_rows(inventory.REJECTED)[1:])
    lines = (inventory_events.Line("tea", 3), inventory_events.Line("tea", 3))
    placed = inventory_events.OrderPlaced(order_id=ID, account="ada", lines=lines)
    assert scene.when(placed) == [inventory_events.StockRejected(order_id=ID, reason="OUT_OF_STOCK")]


def test_an_amount_that_no_payment_could_carry_is_rejected() -> None:
    scene = Scene(
        inventory.service,
        *(
            Stock(sku=sku, price=10**9, currency="EUR", available=10**9, reserved=0, sold=0, received=10**9)
            for sku in ("gem", "orb")
        ),
    )
    lines = (inventory_events.Line("gem", 1_000_000), inventory_events.Line("orb", 1))
    placed = inventory_events.OrderPlaced(order_id=ID, account="ada", lines=lines)
    assert scene.when(placed) == [inventory_events.StockRejected(order_id=ID, reason="AMOUNT_TOO_LARGE")]
    assert scene.row(Stock, "gem").reserved == 0


@pytest.mark.parametrize(
    ("account", "reason"),
    [
        (None, "UNKNOWN_ACCOUNT"),
        (Account(id="ada", currency="USD", balance=800), "WRONG_CURRENCY"),
        (Account(id="ada", currency="EUR", balance=199), "NOT_ENOUGH_MONEY"),
    ],
)
def test_a_payment_that_cannot_be_is_declined(account: Account | None, reason: str) -> None:
    scene = Scene(payment_handlers.service, *(() if account is None else (account,)))
    reserved = payment_events.StockReserved(order_id=ID, account="ada", amount=200, currency="EUR")
    assert scene.when(reserved) == [payment_events.PaymentDeclined(order_id=ID, reason=reason)]
    assert scene.row(Payment, ID).state == payment.DECLINED
    assert scene.rows(Entry) == []


MONEY: dict[str, Any] = {"order_id": ID, "account": "ada", "amount": 200, "currency": "EUR"}
CAPTURE, REFUND, VOID = CapturePayment(**MONEY), RefundPayment(**MONEY), VoidCapture(**MONEY)
BOOKED = Answer(201, {}, b'{"booking": 1}')


def ledger(place: Scene) -> dict[str, int]:
    """Return what each side has, with the balance of the account."""
    found = dict.fromkeys(("held", "merchant"), 0)
    for entry in place.rows(Entry):
        found[entry.side] = found.get(entry.side, 0) + entry.amount
    return found | {"balance": place.row(Account, "ada").balance}


def asked() -> Scene:
    """The bank is asked to capture 200 of ada's 1,000."""
    scene = Scene(payment_handlers.service, Account(id="ada", currency="EUR", balance=1_000))
    assert scene.when(payment_events.StockReserved(**MONEY)) == [CAPTURE]
    assert ledger(scene) == {"customer": -200, "held": 200, "merchant": 0, "balance": 800}
    return scene


def test_what_the_bank_books_is_captured() -> None:
    scene = asked()
    assert CAPTURE.request().json == {"order": ID, "account": "ada", "amount": 200, "currency": "EUR"}
    assert scene.answered(CAPTURE, BOOKED) == [payment_events.PaymentCaptured(**MONEY)]
    assert scene.row(Payment, ID).state == payment.CAPTURED
    assert ledger(scene) == {"customer": -200, "held": 0, "merchant": 200, "balance": 800}
    assert scene.when(payment_events.OrderCancelled(order_id=ID)) == [REFUND]
    assert scene.answered(REFUND, BOOKED) == [payment_events.PaymentRefunded(**MONEY)]
    assert scene.row(Payment, ID).state == payment.REFUNDED
    assert ledger(scene) == {"customer": 0, "held": 0, "merchant": 0, "balance": 1_000}


@pytest.mark.parametrize("ends", [payment_events.OrderCancelled, payment_events.OrderTimedOut])
def test_a_capture_that_is_booked_after_the_order_has_ended_is_refunded(ends: type[Event]) -> None:
    scene = asked()
    assert scene.when(ends(order_id=ID)) == []
    assert scene.row(Payment, ID).state == payment.CANCELLING
    published = scene.answered(CAPTURE, BOOKED)
    assert sorted(published, key=repr) == [payment_events.PaymentCaptured(**MONEY), REFUND]
    assert scene.row(Payment, ID).state == payment.REFUNDING


def test_what_the_bank_refuses_is_declined_and_no_longer_held() -> None:
    scene = asked()
    refused = scene.answered(CAPTURE, Answer(402, {}, b"{}"))
    assert refused == [payment_events.PaymentDeclined(order_id=ID, reason="BANK_REFUSED")]
    assert scene.row(Payment, ID).state == payment.DECLINED
    assert ledger(scene) == {"customer": 0, "held": 0, "merchant": 0, "balance": 1_000}


@pytest.mark.parametrize("maybe_done", [False, True])
def test_a_capture_that_is_given_up_is_voided_if_the_bank_may_have_booked_it(maybe_done: bool) -> None:
    scene = asked()
    published = scene.given_up(CAPTURE, GivenUp("deadline", 9, maybe_done, "it is silent"))
    declined = payment_events.PaymentDeclined(order_id=ID, reason="BANK_SILENT")
    assert published == ([VOID, declined] if maybe_done else [declined])
    assert ledger(scene)["balance"] == 1_000
    assert scene.answered(VOID, BOOKED) == []


@pytest.mark.parametrize("call", [CAPTURE, REFUND, VOID], ids=lambda call: type(call).__name__)
def test_an_answer_that_decides_nothing_changes_nothing(call: Any) -> None:
    """Busy is asked again; what says that we are wrong, such as 404, is an error that somebody has to look at."""
    scene = asked()
    before = scene.everything()
    for status, error in ((409, Retry), (503, Retry), (404, BankMisunderstood), (422, BankMisunderstood)):
        with pytest.raises(error, match=str(status)):
            scene.answered(call, Answer(status, {}, b"\xff"))
    assert scene.everything() == before


def test_a_refund_that_an_operator_gives_up_is_the_customers_all_the_same() -> None:
    scene = asked()
    scene.answered(CAPTURE, BOOKED)
    scene.when(payment_events.OrderCancelled(order_id=ID))
    why = GivenUp("operator", 3, maybe_done=True, last_failure="it refuses")
    assert scene.given_up(REFUND, why) == [payment_events.PaymentRefunded(**MONEY)]
    assert scene.given_up(VOID, why) == []
    assert ledger(scene)["balance"] == 1_000
