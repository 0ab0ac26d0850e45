"""What the payment service does about each event.

When the stock is reserved, the money is held in the customer's account, and the bank is asked to capture it; or the
payment is declined. When the order is cancelled, or its time is over, after that, the bank is asked for a refund. What
the bank's answers do is in `calls`. An order that ends so before its stock is reserved here leaves a CANCELLED row, so
that the late `StockReserved` takes nothing.
"""

from typing import Annotated

from services.payment.calls import CapturePayment, refund_of
from services.payment.events import (
    OrderCancelled,
    OrderTimedOut,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    StockReserved,
)
from services.payment.models import Account, Payment
from services.payment.states import CANCELLED, CAPTURED, CAPTURING, DECLINED, PAYMENT
from shared import Service, Session, lock
from shared.calls import call

service = Service("payment", publishes=(PaymentCaptured, PaymentDeclined, PaymentRefunded))

# Every handler and every answer locks payments before accounts, so that no two deadlock.
Payer = Annotated[Account | None, lock(by="account")]


@service.on(StockReserved, PAYMENT)
def charge(event: StockReserved, session: Session, account: Payer) -> PaymentDeclined | None:
    """The stock is reserved: hold the money and ask the bank, or decline."""
    payment = Payment(order_id=event.order_id, account=event.account, amount=event.amount, currency=event.currency)
    session.add(payment)
    if account is None:
        payment.reason = "UNKNOWN_ACCOUNT"
    elif account.currency != event.currency:
        payment.reason = "WRONG_CURRENCY"
    elif account.balance < event.amount:
        payment.reason = "NOT_ENOUGH_MONEY"
    else:
        payment.state = CAPTURING
        session.add_all(account.post(-event.amount, f"hold:{event.order_id}", against="held", order_id=event.order_id))
        capture = CapturePayment(
            order_id=event.order_id, account=account.id, amount=event.amount, currency=event.currency
        )
        call(session, capture)
        return None
    payment.state = DECLINED
    return PaymentDeclined(order_id=event.order_id, reason=payment.reason)


@service.on(OrderCancelled, OrderTimedOut, PAYMENT)
def undo(event: OrderCancelled | OrderTimedOut, session: Session, payment: Payment | None) -> None:
    """The customer cancelled, or the order's time is over: what was taken goes back; what is being taken, when it is
    taken.
    """
    if payment is None:
        session.add(Payment(order_id=event.order_id, state=CANCELLED))
    elif payment.state == CAPTURED:
        call(session, refund_of(payment))
