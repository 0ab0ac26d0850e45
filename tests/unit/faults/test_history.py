"""The fault tests' checker sees each anomaly planted into a good history, and names it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.history import Consumed, History, Kind, Trail, anomalies

A1 = Consumed(0, 0, "id-1", "a", 1, 1)
A2 = Consumed(0, 1, "id-2", "a", 2, 2)
A3 = Consumed(0, 3, "id-3", "a", 3, 3)
"""An event behind a marker."""
B4 = Consumed(1, 0, "id-4", "b", 1, 4)

GOOD = History(
    asked={"a": [1, 2], "b": [4]},
    requested={"a": [3]},
    in_doubt={"a": [7], "b": [8]},
    rejected=[("a", 5)],
    effects=[("a", 1), ("a", 2), ("b", 4)],
    trails={"a": Trail(3, [1, 2], [3]), "b": Trail(1, [4], [])},
    dead_letters=[(0, 7)],
    told=[A1, A2, A3, B4],
    announced_dead_letters=["letter-1"],
    live=[A1, A2, A3, B4],
    handled={0: 9, 1: 4},
    readable={0: 9, 1: 4},
    published={0: (2, "claim"), 1: (0, "")},
    claims={0: (2, "claim"), 1: (0, "")},
)


def test_a_good_history_has_no_anomaly() -> None:
    assert anomalies(GOOD) == []


def test_a_request_without_an_answer_may_have_happened_or_not() -> None:
    happened = Consumed(1, 1, "id-8", "b", 2, 8)
    history = replace(
        GOOD, trails={**GOOD.trails, "b": Trail(2, [4], [8])}, told=[*GOOD.told, happened], live=[*GOOD.live, happened]
    )
    assert anomalies(history) == []


def without(consumed: Consumed) -> History:
    return replace(GOOD, told=[h for h in GOOD.told if h != consumed], live=[h for h in GOOD.live if h != consumed])


def never_happened() -> History:
    return replace(without(B4), effects=[("a", 1), ("a", 2)], trails={"a": GOOD.trails["a"], "b": Trail(0, [], [])})


def lost_request() -> History:
    return replace(without(A3), trails={**GOOD.trails, "a": Trail(2, [1, 2], [])})


def lost_dead_letter() -> History:
    return replace(GOOD, dead_letters=[], announced_dead_letters=[])


def handled_twice() -> History:
    again = Consumed(1, 1, "id-4b", "b", 2, 4)
    return replace(
        GOOD,
        effects=[*GOOD.effects, ("b", 4)],
        trails={**GOOD.trails, "b": Trail(2, [4, 4], [])},
        told=[*GOOD.told, again],
        live=[*GOOD.live, again],
    )


def one_table_twice() -> History:
    return replace(GOOD, effects=[*GOOD.effects, ("b", 4)])


def published_twice() -> History:
    again = B4._replace(offset=1)
    return replace(GOOD, told=[*GOOD.told, again], live=[*GOOD.live, again])


def happened_unasked() -> History:
    more = Consumed(1, 1, "id-9", "b", 2, 9)
    return replace(
        GOOD, trails={**GOOD.trails, "b": Trail(2, [4], [9])}, told=[*GOOD.told, more], live=[*GOOD.live, more]
    )


def one_id_for_two() -> History:
    duplicate = A2._replace(event_id="id-1")
    return replace(GOOD, told=[A1, duplicate, A3, B4], live=[A1, duplicate, A3, B4])


def set_aside_twice() -> History:
    return replace(GOOD, dead_letters=[(0, 7), (0, 7)])


def dead_letter_published_twice() -> History:
    return replace(GOOD, announced_dead_letters=["letter-1", "letter-1"])


def read_twice() -> History:
    return replace(GOOD, live=[*GOOD.live, B4])


def effect_without_event() -> History:
    return without(B4)


def changed_half() -> History:
    return replace(GOOD, effects=[("a", 1), ("a", 2)])


def dead_letter_not_published() -> History:
    return replace(GOOD, announced_dead_letters=[])


def event_without_effect() -> History:
    return replace(GOOD, effects=[("a", 1), ("a", 2)], trails={"a": GOOD.trails["a"]})


def seen_and_gone() -> History:
    return replace(GOOD, live=[*GOOD.live, Consumed(1, 5, "id-6", "b", 2, 6)])


def dead_letter_of_nothing() -> History:
    return replace(GOOD, rejected=[])


def handled_in_another_order() -> History:
    swapped = [A1._replace(number=2), A2._replace(number=1), A3, B4]
    return replace(GOOD, trails={**GOOD.trails, "a": Trail(3, [2, 1], [3])}, told=swapped, live=swapped)


def published_in_another_order() -> History:
    swapped = [A1._replace(step=2), A2._replace(step=1), A3, B4]
    return replace(GOOD, told=swapped, live=swapped)


def published_on_two_partitions() -> History:
    moved = [A1, A2, A3._replace(partition=1, offset=9), B4]
    return replace(GOOD, told=moved, live=moved)


def handled_too_far() -> History:
    return replace(GOOD, handled={0: 9, 1: 5})


def published_less_than_claimed() -> History:
    return replace(GOOD, published={0: (1, "claim"), 1: (0, "")})


def published_under_another_claim() -> History:
    return replace(GOOD, published={0: (2, "other"), 1: (0, "")})


def row_left() -> History:
    return replace(GOOD, unpublished=1)


def transaction_open() -> History:
    return replace(GOOD, open_transactions=["told: a transaction is open"])


PLANTED: dict[Kind, tuple[Callable[[], History], ...]] = {
    Kind.LOST: (never_happened, lost_request),
    Kind.DUPLICATE: (
        *(handled_twice, one_table_twice, published_twice, happened_unasked, one_id_for_two),
        *(set_aside_twice, dead_letter_published_twice, read_twice),
    ),
    Kind.TORN: (effect_without_event, changed_half, dead_letter_not_published),
    Kind.ABORTED_READ: (seen_and_gone, dead_letter_of_nothing),
    Kind.ORDER: (handled_in_another_order, published_in_another_order, published_on_two_partitions),
    Kind.OFFSETS: (handled_too_far, published_less_than_claimed, published_under_another_claim),
    Kind.UNREST: (row_left, transaction_open),
}


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(plant, kind) for kind, plants in PLANTED.items() for plant in plants],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_planted_is_seen_and_nothing_else(plant: Callable[[], History], kind: Kind) -> None:
    assert {anomaly.kind for anomaly in anomalies(plant())} == {kind}


def test_a_dead_letter_that_is_nowhere_is_lost_and_half_a_dead_letter_is_torn() -> None:
    assert {anomaly.kind for anomaly in anomalies(lost_dead_letter())} == {Kind.LOST, Kind.TORN}


def test_an_event_about_nothing_is_an_aborted_read() -> None:
    assert {anomaly.kind for anomaly in anomalies(event_without_effect())} == {Kind.ABORTED_READ}
