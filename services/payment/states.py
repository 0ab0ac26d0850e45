"""The states of a payment, and what each event, and each answer of the bank, means in them.

The bank answers whenever it likes. So an order may end while its capture is due or under way: the capture is then not
called back, which nobody could do in time, but waited for, and refunded when it was booked.
"""

from services.payment.events import OrderCancelled, OrderTimedOut, StockReserved
from services.payment.models import Payment, PaymentState
from shared import DUPLICATE, NONE, Command, Machine, ignore, refuse, to

CAPTURING = PaymentState.CAPTURING
CANCELLING = PaymentState.CANCELLING
CAPTURED = PaymentState.CAPTURED
DECLINED = PaymentState.DECLINED
REFUNDING = PaymentState.REFUNDING
REFUNDED = PaymentState.REFUNDED
CANCELLED = PaymentState.CANCELLED

BOOKED = Command("capture booked (bank)")
REFUSED = Command("capture refused, or given up (bank)")
PAID_BACK = Command("refund booked (bank)")

_NOT_ASKED = refuse("the bank was not asked for it")

PAYMENT = Machine(
    Payment,
    PaymentState,
    {
        StockReserved: {
            NONE: to(CAPTURING, DECLINED),
            (CAPTURING, CANCELLING, CAPTURED, DECLINED, REFUNDING, REFUNDED): DUPLICATE,
            CANCELLED: ignore("cancelled or out of time first; the inventory service releases it"),
        },
        (OrderCancelled, OrderTimedOut): {
            NONE: to(CANCELLED),
            CAPTURING: to(CANCELLING),
            CAPTURED: to(REFUNDING),
            DECLINED: ignore("nothing was taken"),
            (CANCELLING, REFUNDING, REFUNDED, CANCELLED): DUPLICATE,
        },
        BOOKED: {
            CAPTURING: to(CAPTURED),
            CANCELLING: to(REFUNDING),
            (NONE, CAPTURED, DECLINED, REFUNDING, REFUNDED, CANCELLED): _NOT_ASKED,
        },
        REFUSED: {
            (CAPTURING, CANCELLING): to(DECLINED),
            (NONE, CAPTURED, DECLINED, REFUNDING, REFUNDED, CANCELLED): _NOT_ASKED,
        },
        PAID_BACK: {
            REFUNDING: to(REFUNDED),
            (NONE, CAPTURING, CANCELLING, CAPTURED, DECLINED, REFUNDED, CANCELLED): _NOT_ASKED,
        },
    },
)
