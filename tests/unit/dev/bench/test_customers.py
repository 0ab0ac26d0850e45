"""A run is given up when nothing can make it a rate that is borne."""

from dev.bench.customers import cannot_be_borne
from dev.bench.load import Load

BEGIN = 1_000.0


def under_way(*, accepted: int, without_answer: int = 0) -> Load:
    """A run of 1,000 orders, of which some are accepted and the next have no answer."""
    load = Load("http://127.0.0.1:1/orders", 100, 10.0)
    load.due = {str(number): BEGIN + number / 100 for number in range(accepted)}
    load.open = {f"key-{number}": BEGIN + number / 100 for number in range(accepted, accepted + without_answer)}
    return load


def test_a_run_goes_on_while_no_more_than_a_hundredth_is_late() -> None:
    load = under_way(accepted=500)
    assert not cannot_be_borne(load, {}, now=BEGIN + 2.05)  # 6 of the 1,000
    assert cannot_be_borne(load, {}, now=BEGIN + 2.5)
    confirmed = {order: due + 0.1 for order, due in load.due.items()}
    assert not cannot_be_borne(load, confirmed, now=BEGIN + 9)


def test_orders_that_were_confirmed_too_late_stay_too_late() -> None:
    load = under_way(accepted=500)
    confirmed = {order: due + 2.5 for order, due in load.due.items()}
    assert cannot_be_borne(load, confirmed, now=BEGIN + 9)


def test_requests_without_an_answer_are_late_as_well() -> None:
    load = under_way(accepted=0, without_answer=500)
    assert not cannot_be_borne(load, {}, now=BEGIN + 2.05)
    assert cannot_be_borne(load, {}, now=BEGIN + 2.5)


def test_one_refusal_is_enough() -> None:
    load = under_way(accepted=1)
    load.refused[503] += 1
    assert cannot_be_borne(load, {}, now=BEGIN)
