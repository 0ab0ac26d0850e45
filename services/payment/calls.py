"""What the payment service asks the bank, and what its answers mean.

Our ledger and the bank's books say the same in the end, and never that more was taken than the order is worth:

- A capture is asked for until the bank has booked it, refuses it (402), or it is given up. Given up, it may be booked
  all the same; then the bank is asked to void it, until it has.
- A refund is owed. It is never given up by itself, and a refusal is no end of it.
- An answer that is neither is a mistake of ours: a wrong URL, a body that the bank does not understand. Nothing is
  decided by it. The call is stuck, which an alert tells, until somebody has corrected it.
"""

from datetime import timedelta
from typing import ClassVar, NoReturn

from services.payment.events import PaymentCaptured, PaymentDeclined, PaymentRefunded
from services.payment.models import Account, Payment
from services.payment.states import BOOKED, PAID_BACK, PAYMENT, REFUNDING, REFUSED
from shared import Currency, Event, Id, Money, Session
from shared.calls import Again, Answer, Call, Destination, Done, GivenUp, Never, Request, Verdict, call

PAYMENT_REQUIRED = 402
"""The only status by which the bank refuses a capture for good."""

NEVER_GIVEN_UP = timedelta(days=3_650)

BANK = Destination(
    "bank",
    url=lambda settings: str(settings.payment_bank_url),
    # A caller that dies leaves its calls, and their share of `concurrency`, alone for these seconds and five more.
    seconds=3.0,
    concurrency=32,
    pause_seconds_max=10.0,  # a customer waits
    rest_seconds=2.0,
)


class BankMisunderstood(Exception):
    """The bank gives an answer that this service has no rule for."""


class BankCall(Call, key="order_id"):
    """What each call to the bank is about."""

    destination = BANK
    path: ClassVar[str]
    attempts = 1_000_000
    within = NEVER_GIVEN_UP

    order_id: Id
    account: Id
    amount: Money
    currency: Currency

    def request(self) -> Request:
        money = {"account": self.account, "amount": self.amount, "currency": self.currency}
        return Request("POST", self.path, json={"order": self.order_id, **money})

    def answered(self, answer: Answer, session: Session) -> Verdict:
        if answer.meaning == "again":
            return Again(f"the bank says {answer.status}", after=answer.retry_after)
        if answer.meaning == "never":
            return self.refused(answer, session)
        return Done(*self.done(session))

    def done(self, session: Session) -> tuple[Event, ...]:
        """Return what is published when the bank has done it."""
        raise NotImplementedError

    def refused(self, answer: Answer, _session: Session) -> Verdict:
        """Return what a refusal means: that this service is wrong."""
        raise BankMisunderstood(f"the bank says {answer.status}: {answer.body[:200].decode(errors='replace')}")

    def payment(self, session: Session) -> Payment:
        """Lock the payment. Raises `LookupError` if it is gone."""
        return session.lock(Payment, self.order_id) or _gone(f"payment {self.order_id}")

    def payer(self, session: Session) -> Account:
        """Lock the account; the payment is locked before it, as by the handlers. Raises `LookupError`."""
        return session.lock(Account, self.account) or _gone(f"account {self.account}")


class CapturePayment(BankCall):
    """Take the money for an order."""

    path = "/captures"
    attempts = 100
    within = timedelta(minutes=10)  # below ORDER_PAYMENT_SECONDS_MAX: a customer learns that it was the bank

    def done(self, session: Session) -> tuple[Event, ...]:
        payment = self.payment(session)
        PAYMENT.move(payment, BOOKED)
        session.add_all(payment.captured())
        if payment.state == REFUNDING:  # the order has ended meanwhile
            call(session, refund_of(payment))
        taken = PaymentCaptured(
            order_id=self.order_id, account=self.account, amount=self.amount, currency=self.currency
        )
        return (taken,)

    def refused(self, answer: Answer, session: Session) -> Verdict:
        if answer.status != PAYMENT_REQUIRED:
            return super().refused(answer, session)
        return Never("the bank refuses", self._declined(session, "BANK_REFUSED"))

    def given_up(self, why: GivenUp, session: Session) -> PaymentDeclined:
        """No money is taken; what may have been taken all the same, the bank is asked to void."""
        declined = self._declined(session, "BANK_SILENT")
        if why.maybe_done:
            void = VoidCapture(order_id=self.order_id, account=self.account, amount=self.amount, currency=self.currency)
            call(session, void)
        return declined

    def _declined(self, session: Session, reason: str) -> PaymentDeclined:
        payment = self.payment(session)
        payment.reason = reason
        PAYMENT.move(payment, REFUSED)
        posting = f"release:{self.order_id}"
        session.add_all(self.payer(session).post(self.amount, posting, against="held", order_id=self.order_id))
        return PaymentDeclined(order_id=self.order_id, reason=reason)


class RefundPayment(BankCall):
    """Give back what was taken for an order."""

    path = "/refunds"

    def done(self, session: Session) -> tuple[Event, ...]:
        PAYMENT.move(self.payment(session), PAID_BACK)
        posting = f"refund:{self.order_id}"
        session.add_all(self.payer(session).post(self.amount, posting, against="merchant", order_id=self.order_id))
        returned = PaymentRefunded(
            order_id=self.order_id, account=self.account, amount=self.amount, currency=self.currency
        )
        return (returned,)

    def given_up(self, _why: GivenUp, session: Session) -> tuple[Event, ...]:
        """Only an operator does it, who has settled it with the bank: the customer's money is back in any case."""
        return self.done(session)


class VoidCapture(BankCall):
    """Let a capture be as if it had never been, whether the bank has booked it, books it late, or never."""

    path = "/voids"

    def done(self, _session: Session) -> tuple[Event, ...]:
        return ()

    def given_up(self, _why: GivenUp, _session: Session) -> None:
        """Only an operator does it, who has settled it with the bank."""


def refund_of(payment: Payment) -> RefundPayment:
    """Return the call that gives back what was taken; a CANCELLED payment has nothing to give."""
    assert payment.account is not None
    assert payment.amount is not None
    assert payment.currency is not None
    return RefundPayment(
        order_id=payment.order_id, account=payment.account, amount=payment.amount, currency=payment.currency
    )


CALLS = (CapturePayment, RefundPayment, VoidCapture)


def _gone(what: str) -> NoReturn:
    raise LookupError(f"{what} is gone; it is never deleted")
