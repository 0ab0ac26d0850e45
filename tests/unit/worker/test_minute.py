"""Events within a minute are counted, and no others."""

from shared.worker.minute import Minute


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    now = 100.0
    minute = Minute(clock=lambda: now)
    assert minute.count() == 1
    assert minute.count(3) == 4
    now += 60
    assert minute.count(0) == 4
    now += 0.1
    assert minute.count(0) == 0
    assert minute.count() == 1
