"""What the payment service does about each event.

A payment is captured or declined when the stock is reserved, and refunded when the order is cancelled after that. An
order that is cancelled before its stock is reserved here leaves a CANCELLED row, so that the late `StockReserved` takes
nothing.
"""

from typing import Annotated

from services.payment.events import OrderCancelled, PaymentCaptured, PaymentDeclined, PaymentRefunded, StockReserved
from services.payment.models import Account, Entry, Payment, PaymentState
from shared import NONE, Machine, Service, Session, ignore, lock, to

CAPTURED = PaymentState.CAPTURED
DECLINED = PaymentState.DECLINED
REFUNDED = PaymentState.REFUNDED
CANCELLED = PaymentState.CANCELLED

_DUPLICATE = ignore("a duplicate, older than the inbox remembers")

PAYMENT = Machine(
    Payment,
    PaymentState,
    {
        StockReserved: {
            NONE: to(CAPTURED, DECLINED),
            (CAPTURED, DECLINED, REFUNDED): _DUPLICATE,
            CANCELLED: ignore("cancelled first; the inventory service releases it"),
        },
        OrderCancelled: {
            NONE: to(CANCELLED),
            CAPTURED: to(REFUNDED),
            DECLINED: ignore("nothing was taken"),
            (REFUNDED, CANCELLED): _DUPLICATE,
        },
    },
)


service = Service("payment", publishes=(PaymentCaptured, PaymentDeclined, PaymentRefunded))

# Every handler locks payments before accounts, so two workers never deadlock.
Payer = Annotated[Account | None, lock(by="account")]
RefundedAccount = Annotated[Account | None, lock(by=lambda _, payment: payment.account)]


@service.on(StockReserved, PAYMENT)
def charge(event: StockReserved, session: Session, account: Payer) -> PaymentCaptured | PaymentDeclined:
    """The stock is reserved: take the money, or decline."""
    payment = Payment(order_id=event.order_id, account=event.account, amount=event.amount, currency=event.currency)
    session.add(payment)
    if account is None:
        payment.reason = "UNKNOWN_ACCOUNT"
    elif account.currency != event.currency:
        payment.reason = "WRONG_CURRENCY"
    elif account.balance < event.amount:
        payment.reason = "NOT_ENOUGH_MONEY"
    else:
        payment.state = CAPTURED
        account.balance -= event.amount
        session.add_all(_posting("capture", event.order_id, account, -event.amount))
        return PaymentCaptured(
            order_id=event.order_id, account=account.id, amount=event.amount, currency=event.currency
        )
    payment.state = DECLINED
    return PaymentDeclined(order_id=event.order_id, reason=payment.reason)


@service.on(OrderCancelled, PAYMENT)
def refund(
    event: OrderCancelled, session: Session, payment: Payment | None, account: RefundedAccount
) -> PaymentRefunded | None:
    """The customer cancelled: what was taken goes back."""
    if payment is None:
        session.add(Payment(order_id=event.order_id, state=CANCELLED))
        return None
    if account is None or payment.amount is None or payment.currency is None:
        raise LookupError(f"the account of payment {payment.order_id} is gone; accounts are never deleted")
    account.balance += payment.amount
    session.add_all(_posting("refund", payment.order_id, account, payment.amount))
    return PaymentRefunded(
        order_id=payment.order_id, account=account.id, amount=payment.amount, currency=payment.currency
    )


def _posting(kind: str, order_id: str, account: Account, amount: int) -> tuple[Entry, Entry]:
    """Return both sides of a posting between a customer and the merchant; the customer receives `amount`, or pays it
    if negative.
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
