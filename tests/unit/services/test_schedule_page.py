"""The Python of docs/schedule.md runs, and does what the page says."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.order.events import PaymentCaptured
from services.order.handlers import RESERVED, service
from services.order.models import Order
from shared import Event, Service
from shared.testing import Scene

BLOCKS = re.findall(r"^```python\n(.*?)^```$", Path("docs/schedule.md").read_text(), re.DOTALL | re.MULTILINE)


class ReportDue(Event, topic="reports", key="day"):
    day: str


def test_the_recurring_event_is_declared() -> None:
    reports = Service("reports", publishes=(ReportDue,))
    exec(BLOCKS[1], {"service": reports, "datetime": datetime, "ReportDue": ReportDue})
    (one,) = reports.recurrences
    assert one.event(one.after(datetime(2027, 1, 1, tzinfo=UTC))) == ReportDue(day="2027-01-01")


def test_the_handler_is_tried() -> None:
    known = (Scene, service, Order, RESERVED, PaymentCaptured)
    words = ("Scene", "service", "Order", "RESERVED", "PaymentCaptured")
    names: dict[str, Any] = dict(zip(words, known, strict=True))
    exec(BLOCKS[2], names)
    names["test_an_order_that_is_paid_has_no_deadline"]()
