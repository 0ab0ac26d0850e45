"""Durable calls to third parties: a handler writes that a call is due, a caller asks, and the answer takes effect once.

    class CapturePayment(Call, key="order_id"):
        destination = BANK

        order_id: Id
        amount: Money

        def request(self) -> Request:
            return Request("POST", "/captures", json={"order": self.order_id, "amount": self.amount})

        def answered(self, answer: Answer, session: Session) -> Verdict:
            if answer.meaning == "done":
                return Done(PaymentCaptured(order_id=self.order_id))
            ...

        def given_up(self, why: GivenUp, session: Session) -> PaymentDeclined:
            ...

A handler or a request says `call(session, CapturePayment(...))`. docs/calls.md has the rest. A worker imports no HTTP
client: only the caller does.
"""

from .declaration import Again, Answer, Call, Destination, Done, GivenUp, Never, Request, Verdict, call

__all__ = ["Again", "Answer", "Call", "Destination", "Done", "GivenUp", "Never", "Request", "Verdict", "call"]
