"""What the payment service does about each event.

A payment is captured or declined when the stock is reserved, and refunded when the order is cancelled, or its time is
over, after that. An order that ends so before its stock is reserved here leaves a CANCELLED row, so that the late
`StockReserved` takes nothing.
"""

from typing import Annotated

from services.payment.events import (
    OrderCancelled,
    OrderTimedOut,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    StockReserved,
)
from services.payment.models import Account, Payment, PaymentState
from shared import DUPLICATE, NONE, Machine, Service, Session, ignore, lock, to

CAPTURED = PaymentState.CAPTURED
DECLINED = PaymentState.DECLINED
REFUNDED = PaymentState.REFUNDED
CANCELLED = PaymentState.CANCELLED

PAYMENT = Machine(
    Payment,
    PaymentState,
    {
        StockReserved: {
            NONE: to(CAPTURED, DECLINED),
            (CAPTURED, DECLINED, REFUNDED): DUPLICATE,
            CANCELLED: ignore("cancelled or out of time first; the inventory service releases it"),
        },
        (OrderCancelled, OrderTimedOut): {
            NONE: to(CANCELLED),
            CAPTURED: to(REFUNDED),
            DECLINED: ignore("nothing was taken"),
            (REFUNDED, CANCELLED): DUPLICATE,
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
        posting = f"capture:{event.order_id}"
        session.add_all(account.post(-event.amount, posting, against="merchant", order_id=event.order_id))
        return PaymentCaptured(
            order_id=event.order_id, account=account.id, amount=event.amount, currency=event.currency
        )
    payment.state = DECLINED
    return PaymentDeclined(order_id=event.order_id, reason=payment.reason)


@service.on(OrderCancelled, OrderTimedOut, PAYMENT)
def refund(
    event: OrderCancelled | OrderTimedOut, session: Session, payment: Payment | None, account: RefundedAccount
) -> PaymentRefunded | None:
    """The customer cancelled, or the order's time is over: what was taken goes back."""
    if payment is None:
        session.add(Payment(order_id=event.order_id, state=CANCELLED))
        return None
    if account is None or payment.amount is None or payment.currency is None:
        raise LookupError(f"the account of payment {payment.order_id} is gone; accounts are never deleted")
    posting = f"refund:{event.order_id}"
    session.add_all(account.post(payment.amount, posting, against="merchant", order_id=event.order_id))
    return PaymentRefunded(
        order_id=payment.order_id, account=account.id, amount=payment.amount, currency=payment.currency
    )
