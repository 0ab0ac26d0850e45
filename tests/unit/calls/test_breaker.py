"""A destination that fails several times in a row rests, and then one call tries."""

from shared.calls.breaker import Breaker


def test_a_breaker_opens_tries_and_closes() -> None:
    now = [0.0]
    breaker = Breaker(3, 10.0, clock=lambda: now[0])
    for _ in range(2):
        breaker.starts()
        assert not breaker.failed()
    assert not breaker.succeeded()
    assert [breaker.failed() for _ in range(3)] == [False, False, True]

    assert (breaker.open, breaker.room(8), breaker.seconds()) == (True, 0, 10.0)
    now[0] = 10.0
    assert breaker.room(8) == 1
    breaker.starts()
    assert breaker.room(8) == 0
    assert not breaker.failed()
    assert (breaker.room(8), breaker.seconds()) == (0, 10.0)

    now[0] = 20.0
    breaker.starts()
    breaker.unasked()
    assert breaker.room(8) == 1
    breaker.starts()
    assert breaker.succeeded()
    assert (breaker.open, breaker.room(8), breaker.seconds()) == (False, 8, 0.0)
