"""What the payment service does about each event.

A payment is captured or declined when the stock is reserved, and refunded when the order is cancelled after that. An
order that is cancelled before its stock is known here leaves a CANCELLED row, so that the late `StockReserved` takes
nothing.
"""

from collections.abc import Iterable

from services.payment.events import OrderCancelled, PaymentCaptured, PaymentDeclined, PaymentRefunded, StockReserved
from services.payment.models import Account, Entry, Payment, PaymentState
from shared.events import Event
from shared.service import Read, Service, on
from shared.session import Session
from shared.states import NONE, Machine, ignore, to

CAPTURED = PaymentState.CAPTURED
DECLINED = PaymentState.DECLINED
REFUNDED = PaymentState.REFUNDED
CANCELLED = PaymentState.CANCELLED

_REPEAT = ignore("a repeat, older than the inbox remembers")

PAYMENT = Machine(
    "payment",
    PaymentState,
    {
        "StockReserved": {
            NONE: to(CAPTURED, DECLINED),
            CAPTURED: _REPEAT,
            DECLINED: _REPEAT,
            REFUNDED: _REPEAT,
            CANCELLED: ignore("cancelled first; the inventory service releases it"),
        },
        "OrderCancelled": {
            NONE: to(CANCELLED),
            CAPTURED: to(REFUNDED),
            DECLINED: ignore("nothing was taken"),
            REFUNDED: _REPEAT,
            CANCELLED: _REPEAT,
        },
    },
)


def charge(event: StockReserved, session: Session) -> Iterable[Event]:
    """The stock is there: take the money, or decline."""
    if PAYMENT.ignores(session.lock(Payment, event.order_id), "StockReserved"):
        return ()
    account = session.lock(Account, event.account)
    payment = Payment(
        order_id=event.order_id, state=CAPTURED, account=event.account, amount=event.amount, currency=event.currency
    )
    if account is None:
        payment.reason = "UNKNOWN_ACCOUNT"
    elif account.currency != event.currency:
        payment.reason = "WRONG_CURRENCY"
    elif account.balance < event.amount:
        payment.reason = "NOT_ENOUGH_MONEY"
    else:
        account.balance -= event.amount
        session.add_all(_posting("capture", event.order_id, account, -event.amount))
        session.add(payment)
        return (
            PaymentCaptured(order_id=event.order_id, account=account.id, amount=event.amount, currency=event.currency),
        )
    payment.state = DECLINED
    session.add(payment)
    return (PaymentDeclined(order_id=event.order_id, reason=payment.reason),)


def refund(event: OrderCancelled, session: Session) -> Iterable[Event]:
    """The customer cancelled: what was taken goes back."""
    payment = session.lock(Payment, event.order_id)
    if PAYMENT.ignores(payment, "OrderCancelled"):
        return ()
    if payment is None:
        session.add(Payment(order_id=event.order_id, state=CANCELLED))
        return ()
    account = session.lock(Account, payment.account)
    if account is None or payment.amount is None or payment.currency is None:
        raise LookupError(f"the account of payment {payment.order_id} is gone; accounts are never deleted")
    PAYMENT.move(payment, "OrderCancelled", REFUNDED)
    account.balance += payment.amount
    session.add_all(_posting("refund", payment.order_id, account, payment.amount))
    return (
        PaymentRefunded(
            order_id=payment.order_id, account=account.id, amount=payment.amount, currency=payment.currency
        ),
    )


def _posting(kind: str, order_id: str, account: Account, amount: int) -> tuple[Entry, Entry]:
    """Both sides of a posting between a customer and the merchant; the customer receives `amount`, or pays it when it
    is negative.
    """
    posting = f"{kind}:{order_id}"
    return (
        Entry(
            posting=posting,
            side="customer",
            account=account.id,
            order_id=order_id,
            amount=amount,
            currency=account.currency,
        ),
        Entry(posting=posting, side="merchant", order_id=order_id, amount=-amount, currency=account.currency),
    )


def _payer(event: OrderCancelled, session: Session) -> Iterable[str]:
    payment = session.lock(Payment, event.order_id)
    return () if payment is None or payment.account is None else (payment.account,)


# Every route locks payments before accounts: two workers never wait for each other.
_payment = Read(Payment, lambda event, _: (event.order_id,))

SERVICE = Service(
    name="payment",
    routes=(
        on(StockReserved, charge, _payment, Read(Account, lambda event, _: (event.account,))),
        on(OrderCancelled, refund, _payment, Read(Account, _payer)),
    ),
    publishes=(PaymentCaptured, PaymentDeclined, PaymentRefunded),
)
