"""Questions that are asked while somebody watches, and only then."""

import threading
from collections.abc import Iterator

import pytest
from psycopg.errors import DeadlockDetected, UndefinedColumn, UndefinedTable
from sqlalchemy.exc import DBAPIError

from shared.console.looks import Look, Watch, words
from shared.testing import until


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.end()


def test_nothing_is_asked_while_nobody_watches(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, rested = [], threading.Event()
    look = Look("counting", lambda: asked.append(1), every=0.01, watch=watch, rest=rested.set)
    look.start()
    until(rested.is_set, "it rests before anybody has watched")
    assert asked == []

    watch.touch()
    until(lambda: len(asked) > 2, "it asks again and again")

    rested.clear()
    watch._until = 0.0
    until(rested.is_set, "what it has opened is closed when nobody watches any more")
    before = len(asked)
    assert not rested.wait(0.05) or len(asked) == before


def test_however_many_watch_it_is_asked_once_in_its_time(watch: Watch) -> None:
    asked = []
    look = Look("counting", lambda: asked.append(1), every=60.0, watch=watch)
    look.start()
    for _ in range(100):
        watch.touch()
    until(lambda: look.answer is not None, "it was asked")

    assert len(asked) == 1


def test_a_failure_is_shown_and_the_last_answer_gets_old(watch: Watch) -> None:
    answers: Iterator[int] = iter([7])
    closed = []
    look = Look("short", lambda: next(answers), every=0.01, watch=watch, rest=lambda: closed.append(1))
    look.once()
    assert look.known(60) == 7
    look.once()

    assert look.failure == "StopIteration"
    assert look.known(60) == 7
    assert look.known(0) is None
    assert closed, "a client that failed is not used again"


def test_a_page_waits_for_the_first_answer_and_not_for_ever(watch: Watch) -> None:
    free = threading.Event()
    look = Look("slow", lambda: free.wait(10), every=0.01, watch=watch)
    look.start()
    look.fresh(5, 0.02)
    assert look.answer is None
    until(lambda: look.silent_seconds > 0, "it is asked")

    free.set()
    look.fresh(5, 10)
    assert look.known(5) is True


def test_a_failure_ends_the_wait_too(watch: Watch) -> None:
    look = Look("broken", lambda: 1 / 0, every=60.0, watch=watch)
    look.start()
    look.fresh(5, 10)

    assert look.failure == "division by zero"


def test_a_reason_is_short_and_on_one_line() -> None:
    told = words(ValueError("a\n" * 5_000))

    assert len(told) == 1_000
    assert told.startswith("a a a")


def test_tables_of_another_release_say_what_to_do() -> None:
    for kind in (UndefinedTable, UndefinedColumn):
        told = words(DBAPIError("SELECT secret", None, kind("it does not exist")))
        assert told.startswith("PostgreSQL: it does not exist. ")
        assert "migrate" in told
    assert words(DBAPIError("SELECT secret", None, DeadlockDetected("locks"))) == "PostgreSQL: locks"
