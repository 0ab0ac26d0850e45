"""Rates are differences over some seconds; what was not seen long enough has none."""

from shared.console.rates import SECONDS, Rates


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_a_difference_over_the_last_seconds() -> None:
    clock = Clock()
    rates = Rates(clock)
    for n in range(21):  # ten a second, then a jump
        rates.note({"a": 5 * n, "b": 0})
        clock.now += 0.5

    assert rates.per_second(["a"]) == 10
    assert rates.per_second(["a", "b"]) == 10
    assert rates.per_second(["b"]) == 0


def test_what_is_not_known_has_no_rate() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert rates.per_second(["a"]) is None
    rates.note({"a": 1})
    assert rates.per_second(["a"]) is None, "one value is no difference"
    clock.now += 0.5
    rates.note({"a": 2, "b": 5})
    assert rates.per_second(["a"]) is None, "too short"
    clock.now += 0.5
    rates.note({"a": 3, "b": 5})
    assert rates.per_second(["a"]) == 2
    assert rates.per_second(["a", "b"]) is None, "one of them was not there before"
    assert rates.per_second([]) is None


def test_after_a_pause_and_a_new_topic_a_rate_begins_anew() -> None:
    clock = Clock()
    rates = Rates(clock)
    rates.note({"a": 1_000})
    clock.now += SECONDS + 1
    rates.note({"a": 2_000})
    assert rates.per_second(["a"]) is None
    clock.now += 1
    rates.note({"a": 0})
    assert rates.per_second(["a"]) == 0


def test_only_some_seconds_are_kept() -> None:
    clock = Clock()
    rates = Rates(clock)
    for n in range(1_000):
        rates.note({"a": n})
        clock.now += 0.01

    assert len(rates._samples) <= 40
