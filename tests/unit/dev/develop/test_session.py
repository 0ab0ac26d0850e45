"""A session says who is late, and that everything is ready once it is."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from dev.develop import __main__ as develop
from dev.develop import session
from dev.develop.ending import Ending
from shared.testing import until


class Late:
    """A process that is ready when it is told to be."""

    name = "pear worker"

    def __init__(self) -> None:
        self.ready = threading.Event()

    def is_ready(self) -> bool:
        return self.ready.is_set()


def test_who_is_late_is_asked_until_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "READY_SECONDS", 0.0)
    monkeypatch.setattr(session, "READY_POLL_SECONDS", 0.01)
    monkeypatch.setattr(session, "LATE_POLL_SECONDS", 0.01)
    late = Late()
    one = session.Session((), None, {}, cast(Any, None), cast(Any, None))
    asking = threading.Thread(target=one._ask_until_ready, args=([late],), daemon=True)
    asking.start()
    first = one._events.get(timeout=10)
    assert isinstance(first, session.Readiness)
    assert first.missing == ("pear worker",)
    late.ready.set()
    then = one._events.get(timeout=10)
    assert isinstance(then, session.Readiness)
    assert then.missing == ()
    until(lambda: not asking.is_alive())
    assert one._events.empty(), "each is said once"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("it did not answer"), "Gave up, for the machine is overloaded: it did not answer"),
        (PermissionError(13, "Permission denied", "/x"), "This cannot work here: Permission denied: /x"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, words: str
) -> None:
    def run(*_: object) -> None:
        raise error

    nothing: Callable[[Ending], None] = lambda _: None  # noqa: E731
    monkeypatch.setattr("sys.argv", ["develop"])
    monkeypatch.setattr(Ending, "install", nothing)
    monkeypatch.setattr(session, "run", run)
    assert develop.main() == develop.EXIT_NOT_RUN
    assert capsys.readouterr().err == f"{words}\n"
