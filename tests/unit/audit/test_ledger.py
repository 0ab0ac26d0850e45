"""Two long lists are compared without a server: the findings do not depend on how they are interleaved."""

import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.audit.ledger import INDEX_BITS, Batch, Consumed, Ledger, identity

TOPIC = "t"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(Ledger()) as made:
        yield made


def claim(ledger: Ledger, number: int, *event_ids: str, sure: bool = True) -> None:
    ledger.claim(Batch(number, 0, number, TOPIC, 0.0, sure), event_ids)


def consume(ledger: Ledger, *events: tuple[str, str], part: int = 0) -> None:
    """Put events, each a key and an id, on a partition."""
    ledger.consume(
        Consumed(part, offset, identity(TOPIC, name), hash(key), name, "", 0, key, "")
        for offset, (key, name) in enumerate(events)
    )


def test_equal_lists(ledger: Ledger) -> None:
    claim(ledger, 1, "a", "b")
    claim(ledger, 2, "c")
    consume(ledger, ("k", "a"), ("l", "b"), ("k", "c"))
    ledger.settle()

    assert not any([*ledger.twice(), *ledger.never(), *ledger.strange(), *ledger.disorder()])


def test_each_difference_once(ledger: Ledger) -> None:
    claim(ledger, 1, "a", "b")
    claim(ledger, 2, "lost", "c", sure=False)
    consume(ledger, ("k", "a"), ("k", "c"), ("k", "b"), ("l", "a"), ("l", "strange"))
    ledger.settle()

    assert [(again.offset, again.first_offset, again.place) for again in ledger.twice()] == [(3, 0, 1 << INDEX_BITS)]
    assert [(missing.place, missing.sure) for missing in ledger.never()] == [(2 << INDEX_BITS, 0)]
    assert [(stranger.offset, stranger.event_id) for stranger in ledger.strange()] == [(4, "strange")]
    ((part, offset, place, later),) = ledger.disorder()
    assert (part, offset) == (0, 2)
    assert (ledger.batch(place).id, ledger.batch(later).id) == (1, 2)


def test_keys_of_several_lanes_on_one_partition(ledger: Ledger) -> None:
    """Only the order of a key counts: its neighbours were claimed earlier and later."""
    claim(ledger, 1, "a1", "a2")
    claim(ledger, 2, "b1", "b2")
    consume(ledger, ("b", "b1"), ("a", "a1"), ("b", "b2"), ("a", "a2"))
    ledger.settle()

    assert list(ledger.disorder()) == []


def test_a_record_that_is_read_again_is_one_record(ledger: Ledger) -> None:
    claim(ledger, 1, "a")
    consume(ledger, ("k", "a"))
    consume(ledger, ("k", "a"))
    ledger.settle()

    assert list(ledger.twice()) == []


@pytest.mark.parametrize("seed", range(5))
def test_any_damage_to_long_lists(ledger: Ledger, seed: int) -> None:
    """The ledger finds what sets and sorting find."""
    dice = random.Random(seed)
    names = [f"e{n}" for n in range(5_000)]
    for number in range(50):
        claim(ledger, number + 1, *names[number * 100 : (number + 1) * 100])
    published = [(f"k{dice.randrange(20)}", name) for name in names]
    lost = set(dice.sample(names, 10))
    published = [event for event in published if event[1] not in lost]
    again = dice.sample(published, 10)
    published += again + [("k0", f"strange{n}") for n in range(10)]
    swapped = dice.randrange(len(published) - 100)
    published[swapped], published[swapped + 40] = published[swapped + 40], published[swapped]
    consume(ledger, *published)
    ledger.settle()

    assert {names[(m.place >> INDEX_BITS) * 100 - 100 + m.place % (1 << INDEX_BITS)] for m in ledger.never()} == lost
    assert len(list(ledger.twice())) == 10
    assert len(list(ledger.strange())) == 10
    late = set()
    latest: dict[str, int] = {}
    repeated = {name for _, name in again}
    order = {name: n for n, name in enumerate(names) if name not in repeated}
    for offset, (key, name) in enumerate(published):
        if name in order:
            if order[name] < latest.get(key, -1):
                late.add(offset)
            latest[key] = max(latest.get(key, -1), order[name])
    assert {disorder.offset for disorder in ledger.disorder()} == late
