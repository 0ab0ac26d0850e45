"""What an API accepts fits into the events that come of it: each type has the same limits in both."""

from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter, ValidationError

from shared import Currency, Id, Money, Quantity, Reason, Uuid

UUID = "01a1fe09-116d-773e-96cb-10309fcb6076"


@pytest.mark.parametrize(
    ("field", "given", "fits"),
    [
        pytest.param(Id, "tea-250g", True, id="id"),
        pytest.param(Id, "x" * 64, True, id="longest id"),
        pytest.param(Id, "x" * 65, False, id="long id"),
        pytest.param(Id, "a b", False, id="id with a blank"),
        pytest.param(Uuid, UUID, True, id="uuid"),
        pytest.param(Uuid, UUID.upper(), False, id="uuid in capitals"),
        pytest.param(Uuid, f"{UUID}\n", False, id="uuid with a line break"),
        pytest.param(Uuid, UUID.replace("-", ""), False, id="uuid without hyphens"),
        pytest.param(Uuid, 36 * "-", False, id="hyphens"),
        pytest.param(Quantity, 1, True, id="quantity"),
        pytest.param(Quantity, 0, False, id="no quantity"),
        pytest.param(Quantity, 1_000_001, False, id="large quantity"),
        pytest.param(Money, 1_000_000_000_000_000, True, id="money"),
        pytest.param(Money, 0, False, id="no money"),
        pytest.param(Currency, "EUR", True, id="currency"),
        pytest.param(Currency, "eur", False, id="currency in small letters"),
        pytest.param(Reason, "OUT_OF_STOCK", True, id="reason"),
        pytest.param(Reason, "", False, id="no reason"),
    ],
)
def test_events_and_bodies_have_the_same_limits(field: Any, given: Any, fits: bool) -> None:
    assert (_accepts(TypeAdapter(field).validate_python, given), _accepts(_into_an_event(field), given)) == (fits, fits)


def _into_an_event(field: Any) -> Any:
    return lambda given: msgspec.convert(given, field)


def _accepts(check: Any, given: Any) -> bool:
    try:
        check(given)
    except (ValidationError, msgspec.ValidationError):
        return False
    return True
